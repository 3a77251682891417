"""Damaged files that our readers accept, the reference libraries accept too: of 10,000 mutants of each kind of input
(tests/fuzz) all that ours let pass go to PyPI's safetensors and sentencepiece and to Python's json and re."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import BIN
from safetensors import SafetensorError, deserialize

MUTANTS = os.environ.get("RANKFOLD_MUTANTS", "10000")

# Reads lines of paths; says "ok" or why not after each. It may die of a file: sentencepiece checks little.
TOKENIZER = """
import sys, sentencepiece
for path in sys.stdin.read().splitlines():
    try:
        model = sentencepiece.SentencePieceProcessor(model_proto=open(path, "rb").read())
        model.decode(model.encode("the bath <s>"))
        print("ok", flush=True)
    except Exception as error:
        print(str(error).replace("\\n", " ") or "an exception", flush=True)
"""


def strict(text):
    def refuse(name):
        raise ValueError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def read_json(path):
    config = strict(path.read_bytes().decode("utf-8-sig"))  # a byte order mark is an editor's, not an attack
    if isinstance(config, dict) and "peft_type" in config:
        names = [config.get("target_modules"), config.get("exclude_modules")]
        patterns = [*(config.get("rank_pattern") or {}), *(config.get("alpha_pattern") or {})]
        for pattern in [name for name in names if isinstance(name, str)] + patterns:
            re.compile(pattern)


def read_rows(path):
    """A JSON value, or one on each line."""
    text = path.read_bytes().decode("utf-8-sig")
    try:
        strict(text)
    except ValueError:
        for line in text.split("\n"):
            if line.strip(" \t\r"):
                strict(line)


def read_tensors(path):
    deserialize(path.read_bytes())


READERS = {".json": read_json, ".jsonl": read_rows, ".safetensors": read_tensors}


def rejected(paths):
    for path in paths:
        try:
            READERS[path.suffix](path)
        except (ValueError, re.error, SafetensorError) as error:
            yield path, str(error)


def rejected_models(paths):
    """In child processes, as many as it takes."""
    at = 0
    while at < len(paths):
        child = subprocess.run([sys.executable, "-c", TOKENIZER], input="\n".join(map(str, paths[at:])), text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # fmt: skip
        answers = child.stdout.splitlines()
        yield from ((path, answer) for path, answer in zip(paths[at:], answers) if answer != "ok")
        at += len(answers)
        if at < len(paths):
            yield paths[at], f"the process ended with {child.returncode}"
            at += 1


@pytest.mark.parametrize("parser", ["safetensors", "model", "adapter", "tokenizer", "data"])
def test_what_we_accept_the_reference_accepts(parser, tmp_path, capsys):
    sys.set_int_max_str_digits(0)  # a limit of Python's, not of JSON
    done = subprocess.run([BIN / f"fuzz_{parser}", "--mutants", MUTANTS, "--accepted", tmp_path, "--seed", "2"],
                          text=True, capture_output=True)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    paths = sorted(Path(tmp_path).iterdir())
    models = [path for path in paths if path.suffix == ".model"]
    bad = list(rejected(path for path in paths if path.suffix != ".model")) + list(rejected_models(models))
    with capsys.disabled():
        print(f"\n{done.stdout.strip()}; of those accepted the reference rejects {len(bad)}")
    assert len(paths) > int(MUTANTS) // 100, "too few are accepted to say anything"
    assert not bad, "\n".join(f"{path.name}: {why}" for path, why in bad[:10])
