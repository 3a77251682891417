"""Regular expressions find the modules that PEFT finds with them: random ones, against PEFT's own functions."""

import random
import re
import warnings

from peft.tuners.tuners_utils import match_target_against_key
from peft.utils.other import get_pattern_key

CASES = 40000
NAMES = ["model.layers.0.self_attn.q_proj", "model.layers.11.mlp.down_proj", "lm_head", "transformer.h.3.attn.W_pack",
         "a", "a.b", "q-proj.\u00e9"]  # fmt: skip
PARTS = [
    *"abq.-_ |()$^*+?[]{}\\,:=!<>#&~0123\u00e9", "model", "layers", "q_proj", "proj", "W_pack", "lm_head", ".*", ".+",
    r"\.", r"\d", r"\w+", r"\W", r"\s", r"\S", r"\b", r"\B", r"\D", r"\_", r"\Z", r"\1", r"\x41", "(?:", "(?=", "(?!", "(?i:",
    "(?P<n>", "(?<=", "(?i)", "(?>", ")", ")", ")?", ")*", "[^", "[a-z]", "[0-9_]", r"[\w.]", r"[^\d]", "[]", "[[:alpha:]]",
    "{2}", "{1,}", "{,2}", "{0,3}", "*?", "++", "|", "|", ".*?", r".*\.",
]  # fmt: skip


def one(random):
    """Half of them parts at random, half a name with some of its parts replaced."""
    if random.random() < 0.5:
        return "".join(random.choices(PARTS, k=random.randint(0, 8)))
    parts = re.split(r"(?<=\.)", random.choice(NAMES))
    for _ in range(random.randint(1, 3)):
        parts[random.randrange(len(parts))] = "".join(random.choices(PARTS, k=random.randint(1, 3)))
    return "".join(parts)


def theirs(pattern, name):
    with warnings.catch_warnings(action="ignore"):
        return [match_target_against_key(pattern, name) is not None, get_pattern_key([pattern], name) == pattern]


def test_what_we_match_peft_matches(probe, capsys):
    source = random.Random(1)
    cases = [[one(source), source.choice(NAMES)] for _ in range(CASES)]
    cases = [case for case in cases if case[0] != case[1]]  # get_pattern_key answers with the name where nothing matches
    accepted = matched = 0
    for (pattern, name), ours in zip(cases, probe.match(cases)):
        if isinstance(ours, list):
            assert ours == theirs(pattern, name), f"{pattern!r} and {name!r}"
            accepted += 1
            matched += any(ours)
    with capsys.disabled():
        print(f"\nregular expressions: {len(cases)}, {accepted} accepted, {matched} match, each as in PEFT")
    assert accepted > CASES // 10 and matched > CASES // 100, "too few to say anything"
