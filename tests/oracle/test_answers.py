"""Measures of answers: ROUGE-L and character F1 against Google's rouge-score, the sign test in exact fractions."""

import json
import random
import unicodedata
from fractions import Fraction
from math import comb, lgamma

import pytest
from conftest import ROOT, run
from rouge_score import rouge_scorer, tokenizers

UNSPACED = [(0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3005, 0x3007), (0x3040, 0x30FF), (0x31F0, 0x31FF),
            (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xFF66, 0xFF9F), (0x20000, 0x3FFFF)]  # fmt: skip


ROUNDINGS = 16 * 2.0**-52  # of doubles


class Words(tokenizers.Tokenizer):
    """Words as docs/evaluation.md defines them."""

    def tokenize(self, text):
        words, grows = [], False
        for c in text:
            kind = unicodedata.category(c)[0]
            is_letter = kind in "LNM"
            alone = any(a <= ord(c) <= b for a, b in UNSPACED) if is_letter else kind == "S" and ord(c) > 127
            if not is_letter and not alone:
                grows = False
                continue
            if alone or not grows:
                words.append("")
            words[-1] += c.lower()
            grows = not alone
        return words


class Characters(Words):
    """Its characters: ROUGE-1 of these is F1 of bags of characters."""

    def tokenize(self, text):
        return list("".join(super().tokenize(text)))


def texts():
    rows = json.loads((ROOT / "examples" / "medical_qa" / "medical_qa_heldout.json").read_text())
    answers = [row["answer"] for row in rows[:60]]
    pairs = list(zip(answers, answers[7:] + answers[:7]))
    draw = random.Random(3)
    alphabet = "abcdeAB 12.,%+-_é°≥É\n\tßσ血糖高压X线カナไทยЖ😀\u200d🏽"
    for _ in range(300):
        pairs.append(tuple("".join(draw.choices(alphabet, k=draw.randint(0, 90))) for _ in range(2)))
    words = "the dose of 5 mg is taken twice a day with or after meals and water".split()
    for _ in range(100):
        pairs.append(tuple(" ".join(draw.choices(words, k=draw.randint(1, 200))) for _ in range(2)))
    return pairs


def ask_probe(command, cases, folder):
    (folder / "cases.json").write_text(json.dumps(cases))
    run("rankfold-probe", command, folder / "cases.json", folder / "out.json")
    return json.loads((folder / "out.json").read_text())


def test_answers(tmp_path, check):
    pairs = texts()
    found = ask_probe("answers", pairs, tmp_path)
    rouge = rouge_scorer.RougeScorer(["rougeL"], tokenizer=Words())
    plain = rouge_scorer.RougeScorer(["rougeL"])  # its own words: a to z and digits, which ours are in such texts
    characters = rouge_scorer.RougeScorer(["rouge1"], tokenizer=Characters())
    compared = 0
    for (answer, reference), ours in zip(pairs, found, strict=True):
        words = Words().tokenize(answer)
        assert ours["words"] == words, answer
        assert ours["exact_match"] == (answer.split() == reference.split())
        if not words or not Words().tokenize(reference):  # rouge-score has 0 where both are empty
            continue
        compared += 1
        check("ROUGE-L", abs(ours["rouge_l"] - rouge.score(reference, answer)["rougeL"].fmeasure), ROUNDINGS, answer)
        check("character F1", abs(ours["char_f1"] - characters.score(reference, answer)["rouge1"].fmeasure), ROUNDINGS, answer)
        if answer.isascii() and reference.isascii():
            check("ROUGE-L", abs(ours["rouge_l"] - plain.score(reference, answer)["rougeL"].fmeasure), ROUNDINGS, answer)
    assert compared > 400


@pytest.mark.parametrize("most", [12, 300, 1000])
def test_signs(most, tmp_path, check):
    draw = random.Random(most)
    cases = [(draw.randint(0, most), draw.randint(0, most)) for _ in range(60)] + [(0, 0), (most, 0), (most, most)]
    for (wins, losses), ours in zip(cases, ask_probe("signs", cases, tmp_path), strict=True):
        n = wins + losses
        exact = min(Fraction(1), Fraction(2 * sum(comb(n, k) for k in range(min(wins, losses) + 1)), 2**n))
        if exact > Fraction(1, 10**280):  # of sums of logarithms as large as that of n!
            limit = ROUNDINGS * max(1, lgamma(n + 1))
            check("sign test: p, relative", abs(ours / float(exact) - 1), limit, f"{wins} : {losses}")
        else:
            assert ours < 1e-279
