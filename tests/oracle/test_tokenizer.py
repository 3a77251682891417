"""Token ids against PyPI's sentencepiece."""

import pytest
from models import CORPUS, NASTY_TEXTS, tokenizer


@pytest.mark.parametrize("name", ["gqa", "baichuan"])
def test_ids(name, zoo, probe):
    texts = NASTY_TEXTS + CORPUS[:6]
    theirs = tokenizer(zoo[name].folder)
    ours = probe.tokenize(zoo[name].folder, texts)
    for text, ids, decoded in zip(texts, ours["ids"], ours["text"]):
        assert ids == theirs.encode(text), f"{text!r}"
        assert decoded == theirs.decode(ids), f"{text!r}"
        assert not any(theirs.is_control(i) for i in ids), f"{text!r} became a control token"


def test_bos_and_eos(zoo, probe):
    assert probe.tokenize(zoo["gqa"].folder, [])["bos"] == 1
    assert probe.tokenize(zoo["baichuan"].folder, [])["bos"] is None
    assert probe.tokenize(zoo["gqa"].folder, [])["eos"] == 2
