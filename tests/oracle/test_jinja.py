"""Chat templates as transformers renders them, against src/text/jinja: cases of our own and random expressions.

The program is rankfold-render (tests/text/render.cpp).
"""

import copy
import datetime
import json
import os
import random
import re
import subprocess
import warnings

import jinja2
import pytest
import transformers.utils.chat_template_utils as chat_templates

import jinja_cases as cases
from conftest import BIN


class FixedDate(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26, 13, 5, 9, 123)


@pytest.fixture(autouse=True)
def fixed_date(monkeypatch):
    monkeypatch.setattr(chat_templates, "datetime", FixedDate)


def expected(template, variables):
    """Text and generation blocks (in code points), or the error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compiled = chat_templates._compile_jinja_template(template)
            if "generation" in template:
                return chat_templates._render_with_assistant_indices(
                    compiled, variables.pop("messages", None), variables.pop("tools", None), None,
                    variables.pop("add_generation_prompt", False), **variables)
            text = compiled.render(**variables)
            text.encode()
            return text, []
        except RecursionError:
            raise
        except Exception as error:  # whatever Python raises must be an error here
            return error


def rendered(tmp_path, templates):
    """What our interpreter makes of (template, variables) pairs."""
    given, out = tmp_path / "cases.json", tmp_path / "out.json"
    given.write_text(json.dumps([{"template": t, "variables": json.dumps(v)} for t, v in templates]))
    subprocess.run([BIN / "rankfold-render", given, out], check=True, timeout=60)
    return json.loads(out.read_text())


def is_folded_slice(template, error):
    """Jinja takes slices of literals while it compiles, where one of a number is undefined. That is not followed."""
    return "[" in template and ("not subscriptable" in error or "unhashable type: 'slice'" in error)


def difference(template, variables, ours):
    theirs = expected(template, copy.deepcopy(variables))  # the filter indent changes a list that it is given
    if isinstance(theirs, Exception):
        if "error" not in ours:
            return f"expected {type(theirs).__name__}: {theirs}, got text {ours['text']!r}"
        if type(theirs) is jinja2.exceptions.TemplateError and (ours["error"] != str(theirs) or not ours["chosen"]):
            return f"expected the template's own error {str(theirs)!r}, got {ours['error']!r}"
        return None
    text, generations = theirs
    if re.search("0x[0-9a-f]{9,}", text.lower()):  # an address
        return None
    if "error" in ours and is_folded_slice(template, ours["error"]):
        return None
    if "error" in ours:
        return f"expected text {text!r}, got error {ours['error']!r}"
    if ours["text"] != text:
        return f"expected {text!r}\n     got {ours['text']!r}"
    data = text.encode()
    ends = [end for _, end, _ in ours["origins"]]
    begins = [begin for begin, _, _ in ours["origins"]]
    if begins != ([0] + ends)[: len(ends)] or (ends[-1] if ends else 0) != len(data):
        return f"origins do not cover the text: {ours['origins']}"
    in_characters = [[len(data[:a].decode()), len(data[:b].decode())] for a, b in ours["generations"]]
    if in_characters != [list(g) for g in generations if g[0] < g[1]]:
        return f"expected generation blocks {generations}, got {in_characters}"
    return None


def check(tmp_path, templates):
    results = rendered(tmp_path, templates)
    wrong = []
    for (template, variables), ours in zip(templates, results):
        if what := difference(template, variables, ours):
            wrong.append(f"{template}\n   with {json.dumps(variables)[:300]}\n   {what}")
    if wrong:
        pytest.fail(f"{len(wrong)} of {len(templates)} differ\n\n" + "\n\n".join(wrong[:40]), pytrace=False)


def test_expressions(tmp_path):
    check(tmp_path, [("{{ " + e + " }}", cases.VALUES) for e in cases.EXPRESSIONS])


def test_templates(tmp_path):
    check(tmp_path, [(t, cases.VALUES) for t in cases.TEMPLATES])


def test_compile_errors(tmp_path):
    check(tmp_path, [(t, cases.VALUES) for t in cases.BROKEN])


def test_chats(tmp_path):
    check(tmp_path, [(t, {**cases.SPECIAL_TOKENS, **chat}) for t in cases.CHAT_TEMPLATES.values() for chat in cases.CHATS])


def test_strftime(tmp_path):
    formats = ["%" + flag + c for flag in ("", "-") for c in "aAbBcdDeFgGHhIjklmMnpPrRsStTuUVwWxXyYzZf%"]
    check(tmp_path, [("{{ strftime_now('" + f + "') }}", {}) for f in formats])


@pytest.mark.parametrize("seed", range(int(os.environ.get("RANKFOLD_JINJA_SEEDS", 2))))
def test_random_expressions(tmp_path, seed):
    maker = cases.Maker(random.Random(seed))
    check(tmp_path, [("{{ " + maker.expression(random.Random(seed * 10000 + k).choice([1, 2, 2, 3])) + " }}", cases.VALUES)
                     for k in range(2000)])


@pytest.mark.parametrize("seed", range(int(os.environ.get("RANKFOLD_JINJA_SEEDS", 1))))
def test_random_templates(tmp_path, seed):
    maker = cases.Maker(random.Random(1000 + seed))
    check(tmp_path, [(maker.template(), cases.VALUES) for _ in range(700)])
