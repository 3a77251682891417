"""Makes src/text/unicode_tables.cpp by asking PyPI's tokenizers and Python about every code point.

    build/venv/bin/python tests/oracle/unicode_tables.py > src/text/unicode_tables.cpp

The parts of tokenizers follow different versions of Unicode: its regular expressions, its digits, its punctuation and
its normal forms each have a table of their own. So none of its tables comes from Python's, which chat templates see:
what str's methods say and make of a character.
"""

import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
# The bits of src/text/unicode.h, and what a regular expression calls them.
CLASSES = {
    0: r"\p{L}",
    1: r"\p{N}",
    2: r"\s",
    3: r"[\r\n]",
    4: r"\p{M}",
    5: r"[\p{P}\p{S}]",
    6: r"[\p{Lu}\p{Lt}]",
    7: r"\p{Ll}",
}
NUMERIC, PUNCTUATION, WORD, STABLE = 8, 9, 10, 11


def ends_word(text):
    return text.lower()[-1] == "\u03c2"


# The bits of src/text/python_characters.h.
PYTHON = [
    str.isspace,
    lambda c: len(f"a{c}b".splitlines()) > 1,
    str.isalpha,
    str.isdecimal,
    str.isdigit,
    str.isnumeric,
    str.islower,
    str.isupper,
    lambda c: unicodedata.category(c) == "Lt",
    lambda c: ends_word(f"A{c}\u03a3") and not ends_word(f"{c}\u03a3"),  # what a sigma looks past for a letter before it
    str.isprintable,
]
# Of a character by itself; the last two only where they differ from the two before.
CASES = [str.upper, str.lower, str.title, str.casefold]


def all_of(pattern):
    """The code points that match a class, by taking them out of a text of all."""
    rest = normalizers.Replace(Regex(pattern), "").normalize_str("".join(map(chr, POINTS)))
    return set(POINTS) - set(map(ord, rest))


def isolated_by(pre_tokenizer):
    text = "".join("a" + chr(c) for c in POINTS if c != ord("a"))
    return {ord(piece) for piece, _ in pre_tokenizer.pre_tokenize_str(text) if len(piece) == 1 and piece != "a"}


def word_characters():
    """Those beside which an added token with single_word is not found."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.add_tokens([AddedToken("X", single_word=True, normalized=False)])
    words = set()
    for first in range(0, len(POINTS), 64):
        some = POINTS[first : first + 64]
        text = "".join(chr(c) + "X " for c in some)
        found = {begin // 3 for begin, _ in tokenizer.encode(text).offsets}
        words |= {c for i, c in enumerate(some) if i not in found}
    return words | {ord("X")}


class NormalForms:
    def __init__(self):
        nfd, nfc = normalizers.NFD().normalize_str, normalizers.NFC().normalize_str
        self.nfd = {c: nfd(chr(c)) for c in POINTS}
        nfc_of = {c: nfc(chr(c)) for c in POINTS}
        is_hangul = lambda c: 0xAC00 <= c <= 0xD7A3  # noqa: E731
        whole = {parts: c for c, parts in self.nfd.items() if len(parts) > 1}
        self.decompositions = []  # (c, first, second or 0, composes again)
        for c in POINTS:
            parts = self.nfd[c]
            if parts == chr(c) or is_hangul(c):
                continue
            first, last = nfc(parts[:-1]), parts[-1]
            if len(parts) == 1:
                self.decompositions.append((c, ord(parts), 0, 0))
            else:  # where the first part does not compose, the character that stands for it
                first = ord(first) if len(first) == 1 else whole[parts[:-1]]
                self.decompositions.append((c, first, ord(last), int(nfc_of[c] == chr(c))))
        self.combining = self._combining(nfd)
        seconds = {second for _, _, second, composes in self.decompositions if composes}
        seconds |= set(range(0x1161, 0x1176)) | set(range(0x11A8, 0x11C3))
        self.unstable = {c for c in POINTS if nfc_of[c] != chr(c)} | set(self.combining) | seconds

    def _combining(self, nfd):
        """Canonical combining classes, from which of two marks comes first."""
        swaps = lambda a, b: nfd(f"a{chr(a)}{chr(b)}") != f"a{chr(a)}{chr(b)}"  # noqa: E731
        above, low = 0x300, 0x334  # classes 230 and 1
        marks = {1: low, 230: above}  # one of each class, which the library knows as such
        for c in range(0x300, 0x1E000):
            if 0xD800 <= c < 0xE000 or self.nfd[c] != chr(c) or not unicodedata.combining(chr(c)):
                continue
            if swaps(c, low) or swaps(above, c):
                marks.setdefault(unicodedata.combining(chr(c)), c)
        classes = {}
        for c in POINTS:
            if self.nfd[c] != chr(c) or unicodedata.category(chr(c)) in ("Lu", "Ll", "Lo", "Cs", "Co", "So"):
                continue
            if c == low or swaps(c, low):  # a class above 1, or 1
                classes[c] = None
            elif swaps(above, c):
                classes[c] = None
        for c in classes:
            same = [value for value, mark in marks.items() if not swaps(c, mark) and not swaps(mark, c)]
            assert len(same) == 1, (hex(c), same)
            classes[c] = same[0]
        return classes


def case_mappings():
    """Rows of what becomes one other character and of what becomes two or three."""
    shifts, longer = [], []
    for case, changed in enumerate(CASES):
        usual = CASES[case - 2] if case >= 2 else lambda c: c
        begin = len(shifts)
        for c in POINTS:
            to = changed(chr(c))
            if to == usual(chr(c)):
                continue
            if len(to) > 1:
                longer.append((case, c, *[ord(x) for x in to], 0)[:5])
                continue
            distance = ord(to) - c
            last = shifts[-1] if len(shifts) > begin and shifts[-1][4] == distance else None
            if last and c == last[2] + last[3]:
                last[2] = c
            elif last and last[1] == last[2] and c == last[1] + 2:  # upper and lower letters often take turns
                last[2:4] = [c, 2]
            else:
                shifts.append([case, c, c, 1, distance])
    return shifts, longer


def runs_of(properties):
    runs, begin = [], 0
    for c in range(1, 0x110001):
        if c == 0x110000 or properties[c] != properties[begin]:
            runs.append(f"0x{(c - begin) << 12 | properties[begin]:x}u")
            begin = c
    return runs


def show(comment, name, numbers, row=1):
    print(f"// {comment}\nconst uint32_t {name}[] = {{")
    write = lambda x: x if isinstance(x, str) else str(x) if 0 <= x <= 9 else f"{x & 0xFFFFFFFF:#x}"  # noqa: E731
    print("\n".join(lines(map(write, numbers))))
    count = f"std::size({name})" + (f" / {row}" if row > 1 else "")
    print(f"}};\nconst size_t {name.removesuffix('s')}Count = {count};\n")


def lines(numbers, width=118):
    line = " "
    for number in numbers:
        if len(line) + len(number) + 2 > width:
            yield line
            line = " "
        line += f" {number},"
    yield line


def main():
    bits = {bit: all_of(pattern) for bit, pattern in CLASSES.items()}
    bits[NUMERIC] = isolated_by(pre_tokenizers.Digits(individual_digits=True))
    bits[PUNCTUATION] = isolated_by(pre_tokenizers.Punctuation(behavior="isolated"))
    bits[WORD] = word_characters()
    forms = NormalForms()
    bits[STABLE] = set(range(0x110000)) - forms.unstable
    properties = [0] * 0x110000
    for bit, members in bits.items():
        for c in members:
            properties[c] |= 1 << bit
    rows, previous = [], None  # runs of one class
    for c in sorted(forms.combining):
        value = forms.combining[c]
        if previous and previous[0] + previous[1] == c and previous[2] == value:
            previous[1] += 1
        else:
            previous = [c, 1, value]
            rows.append(previous)
    shifts, longer = case_mappings()
    print("// Made by tests/oracle/unicode_tables.py; not to be edited.")
    print('#include "text/unicode.h"\n\n#include <iterator>\n\nnamespace rankfold::unicode {\n')
    show("(length of the run << 12) | properties", "kRuns", runs_of(properties))
    show("character, first, second (0: none), 1 where the two compose again", "kDecompositions",
         [x for row in forms.decompositions for x in row], 4)
    show("first character, how many, combining class", "kCombining", [x for row in rows for x in row], 3)
    python = [0] * 0x110000
    for c in POINTS:
        python[c] = sum(has(chr(c)) << bit for bit, has in enumerate(PYTHON))
    show(f"as the first, by Python's Unicode {unicodedata.unidata_version}", "kPythonRuns", runs_of(python))
    show("case, first character, last, step, distance to what it becomes", "kCaseShifts",
         [x for row in shifts for x in row], 5)
    show("case, character, the two or three that it becomes (0: none)", "kLongerCases",
         [x for row in longer for x in row], 5)
    print("}  // namespace rankfold::unicode")


if __name__ == "__main__":
    main()
