"""tokenizer.json as Rankfold reads it, beside PyPI's tokenizers on the same file: ids, ranges and decoded text.

The program is rankfold-encode (tests/text/encode.cpp).
"""

import json
import os
import subprocess
import unicodedata
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tokenizer_families import FAMILIES, make_file, make_texts

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("RANKFOLD_BIN", ROOT / "build" / "bin")).resolve()
TEXTS = int(os.environ.get("RANKFOLD_TEXTS", 10_000))
# Pipelines of no family, or as another's with other added tokens: these have fewer texts.
VARIANTS = {"metaspace-split", "no-bytes", "some-bytes", "qwen-odd", "gpt-2-prefix", "phi-4-mini", "glm-4", "ling", "removed"}


def encode(path, texts):
    lines = "".join(json.dumps(text) + "\n" for text in texts)
    done = subprocess.run([BIN / "rankfold-encode", path], input=lines.encode(), capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.splitlines()]


def contains(ours, theirs):
    """Each range of ours contains theirs: it is wider where normalising composed characters."""
    return len(ours) == len(theirs) and all(a[0] <= b[0] and b[1] <= a[1] for a, b in zip(ours, theirs))


@pytest.mark.parametrize("name", FAMILIES)
def test_family(name, tmp_path):
    path = tmp_path / "tokenizer.json"
    file = make_file(FAMILIES[name], path)
    file["post_processor"] = None  # its ByteLevel cuts blanks off the offsets
    theirs = Tokenizer.from_str(json.dumps(file))
    texts = make_texts(TEXTS // 4 if name in VARIANTS else TEXTS, FAMILIES[name]["added"], seed=name)
    if FAMILIES[name].get("pcre2"):
        texts = [text for text in texts if not any(unicodedata.category(c) == "Cn" for c in text)]
    ours = encode(path, texts)
    assert len(ours) == len(texts)
    # A special token that normalising changes is shown by the library even where it shall skip special tokens.
    not_skipped = {t["id"] for t in file["added_tokens"] if t["special"] and t["normalized"]}
    composed = 0
    for mode in ("file", "user"):
        theirs.encode_special_tokens = mode == "user"
        encodings = theirs.encode_batch(texts, add_special_tokens=False)
        for text, encoding, line in zip(texts, encodings, ours):
            assert line[mode]["ids"] == encoding.ids, f"{mode}: {text!r}"
            if [list(pair) for pair in encoding.offsets] == line[mode]["ranges"] or not FAMILIES[name].get("ranges", True):
                continue
            changes = theirs.normalizer is not None and theirs.normalizer.normalize_str(text) != text
            assert changes and contains(line[mode]["ranges"], encoding.offsets), (
                f"{mode}: {text!r}: {encoding.offsets}, ours {line[mode]['ranges']}"
            )
            composed += 1
        if mode == "file":
            ids = [encoding.ids for encoding in encodings]
            for key, skips in (("text", True), ("shown", False)):
                for text, line, decoded in zip(texts, ours, theirs.decode_batch(ids, skip_special_tokens=skips)):
                    if skips and not_skipped & set(line["file"]["ids"]):
                        continue
                    assert line[key] == decoded, f"{key}: {text!r}"
    assert composed < len(texts) / 2  # in both modes
    assert composed == 0 or "NFC" in json.dumps(FAMILIES[name].get("normalizer"))


def test_special_tokens_are_never_spelt(tmp_path):
    path = tmp_path / "tokenizer.json"
    file = make_file(FAMILIES["tekken"], path)  # its special tokens are pieces too, and the model ignores merges
    special = {t["id"] for t in file["added_tokens"] if t["special"]}
    texts = make_texts(2000, FAMILIES["tekken"]["added"], seed=1)
    lines = encode(path, texts)
    assert any(special & set(line["file"]["ids"]) for line in lines)
    assert not any(special & set(line["user"]["ids"]) for line in lines)
