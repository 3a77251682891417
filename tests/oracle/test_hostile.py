"""Damaged files that our readers accept, the reference libraries accept too: of 10,000 mutants of each kind of file
(tests/fuzz) all that ours let pass go to PyPI's safetensors and sentencepiece and to Python's json and re. Then tables of
JSON texts and of safetensors files by hand, where every difference from the references is listed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import BIN
from safetensors import SafetensorError, deserialize

MUTANTS = os.environ.get("RANKFOLD_MUTANTS", "2500")

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


@pytest.fixture
def any_digits():
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)  # a limit of Python's, not of JSON
    yield
    sys.set_int_max_str_digits(limit)


@pytest.mark.usefixtures("any_digits")
@pytest.mark.parametrize("parser", ["safetensors", "model", "adapter", "tokenizer", "data"])
def test_what_we_accept_the_reference_accepts(parser, tmp_path, capsys):
    command = [BIN / f"fuzz_{parser}", "--mutants", MUTANTS, "--count", "0", "--accepted", tmp_path, "--seed", "2"]
    done = subprocess.run(command, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    paths = [path for path in sorted(Path(tmp_path).iterdir()) if path.suffix in {*READERS, ".model"}]
    models = [path for path in paths if path.suffix == ".model"]
    bad = list(rejected(path for path in paths if path.suffix != ".model")) + list(rejected_models(models))
    with capsys.disabled():
        print(f"\n{done.stdout.strip()}\n{parser}: of {len(paths)} accepted the reference rejects {len(bad)}")
    kinds = {path.name.split("-", 1)[1] for path in paths}
    for kind in kinds:
        count = sum(path.name.endswith(kind) for path in paths)
        assert count > int(MUTANTS) // 200, f"{kind}: {count} accepted are too few to say anything"
    assert kinds, "none is accepted"
    assert not bad, "\n".join(f"{path.name}: {why}" for path, why in bad[:10])


def ours(parser, kind, contents, folder):
    """For each content of a file: (accepted, result or error)."""
    lines = []
    for number, content in enumerate(contents):
        path = folder / str(number)
        path.write_bytes(content)
        lines.append(f"{kind} {path}\n")
    (folder / "list").write_text("".join(lines))
    done = subprocess.run([BIN / f"fuzz_{parser}", "--inputs", folder / "list"], capture_output=True)
    assert done.returncode == 0, done.stderr
    answers = done.stdout.decode().splitlines()
    assert len(answers) == len(contents)
    return [(answer.startswith("ok "), answer[3:]) for answer in answers]


# JSON, by RFC 8259 ------------------------------------------------------------------------------------------------------

JSON = {
    "numbers": """0 -0 1 -1 10 1234567890 0.5 -0.5 1.0 0.1e1 1e5 1E5 1e+5 1e-5 0e0 0E+0 -0.0 -0e-9 123.456e78 5e-324 1e-400
        1.7976931348623157e308 9223372036854775807 -9223372036854775808 9223372036854775808 18446744073709551615
        18446744073709551616 -9223372036854775809 123456789012345678901234567890 0.1234567890123456789012345678901
        1e400 -1e400 00 01 -01 -00 +1 .5 -.5 1. -1. 1.e5 1e 1e+ 1e- 1e1.5 e5 - + -- 1-1 1+1 0x10 0b1 0o7 1_000 1,000 1f
        1.2.3 NaN -NaN Infinity -Infinity inf nan ١ １ 1⁄2 ∞""".split(),
    "strings": [
        '""', '"a"', '" "', '"\x7f"', '"é"', '"糖"', '"😀"', '"\u2028"', '"\ufeff"', '"\uffff"', '"/"', '"\\/"', '"\\""',
        '"\\\\"', '"\\b\\f\\n\\r\\t"', '"\\u0041"', '"\\u00e9"', '"\\u0000"', '"\\u001f"', '"\\uABCD"', '"\\uabcd"',
        '"\\uFFFF"',
        '"\\u0022"', '"\\u005c"', '"\\u002F"', '"[1,{}]:"', '"null"', '"', '"a', 'a"', "'a'", '"a""b"', '"\\"',
        '"\\x41"', '"\\a"',
        '"\\0"', '"\\U0041"', '"\\u"', '"\\u1"', '"\\u12"', '"\\u123"', '"\\u12G4"', '"\\u 041"', '"\\u-041"',
        '"\\u+041"', '"\\\n"',
        '"\n"', '"\r"', '"\t"', '"\x00"', '"\x01"', '"\x1f"', '"\\', '"\\\\\\"', '`a`', '“a”', "\"a'", '"\\e"',
        '"\\u００41"',
    ],
    "surrogates": [
        '"\\ud83d\\ude00"', '"\\uD83D\\uDE00"', '"\\ud800\\udc00"', '"\\udbff\\udfff"', '"a\\ud83d\\ude00b"',
        '"\\ud7ff\\ue000"',
        '"\\ud800"', '"\\udbff"', '"\\udc00"', '"\\udfff"', '"\\ud800a"', '"\\ud800\\n"', '"\\ud800\\ud800"',
        '"\\udc00\\ud800"',
        '"\\ud800\\u0041"', '"\\ud800\\ud800\\udc00"', '"\\ud800\\udc0"', '"\\ud800\\"', '"\\ud800\\\\udc00"',
    ],
    "structure": [
        "[]", "{}", "[1]", "[1,2]", "[[],{}]", '{"a":1}', '{"a":1,"b":2}', '{"":0}', '{"a":{"a":1}}',
        '{"a":[{"b":[]}]}', '{"a":1,"A":2}',
        '{"\\u0061":1,"b":2}', '{"a":null}', "[", "]", "{", "}", "[}", "{]", "[1", "[1,", "[,", "[,]", "[1,]", "[,1]",
        "[1,,2]", "[1 2]", "[1;2]",
        "[1:2]", "(1)", "<1>", '{"a"', '{"a":', '{"a":1', '{"a":1,', '{"a":1,}', '{,}', '{"a"}', '{"a",1}', '{"a":}',
        '{:1}', '{1:1}',
        "{a:1}", "{'a':1}", '{"a":1 "b":2}', '{"a"::1}', '{"a":1:2}', '{null:1}', '{[]:1}', '{"a"=1}', "[1]]", "[1]1",
        "{}{}", "[][]", "1 1", "", "[\"a]",
        '{"a":1,"a":1}', '{"a":1,"a":2}', '{"a":1,"\\u0061":2}', '{"":1,"":2}', '[{"a":{"b":1,"b":2}}]', "[1]#",
        "[1]//", "[1]/**/", "/**/[1]", "[1,//\n2]",
        "#\n1", "...", "\\n", "[\\u0031]", "*",
    ],
    "white space": [
        " 1", "1 ", "\t1", "\n1\n", "\r1", "\r\n1\r\n", " [ 1 , 2 ] ", '{ "a" : 1 }', '{\n"a"\n:\n1\n}', " ", "\t\r\n",
        "\x0b1", "\x0c1", "\xa01",
        "\u20281", "\u30001", "\u200b1", "\x001", "1\x00", "\x1a", "[1,\x0c2]", "\ufeff1", "1\ufeff", "[\ufeff1]",
        "- 1", "1 .5", "1 e5", "t rue", '"a" "b"',
    ],
    "literals": "true false null [true,false,null] True TRUE tru truee nul nulll None False undefined".split()
        + ["true1", "1true", "truefalse", "true false", "[true false]", "~", "yes", "%", "𝐭rue"],
    "nesting": ["[" * n + "]" * n for n in (64, 126, 127, 128, 129, 900)]
        + ['{"a":' * n + "1" + "}" * n for n in (64, 126, 127, 128, 900)]
        + ["[" * 100, "[" * 100_000, '{"":' * 100_000, "[" * 50 + "]" * 51, "[" * 51 + "]" * 50],
    "encoding": [
        b'"\xdf\xbf"', b'"\xf0\x90\x80\x80"', b'"\xef\xbf\xbd"', b'"\xf4\x8f\xbf\xbf"', b'"\xed\x9f\xbf"',
        b'"\xee\x80\x80"',
        b'"\x80"', b'"\xbf"', b'"\xc0\x80"', b'"\xc1\xbf"', b'"\xc3"', b'"\xe0\x80\x80"', b'"\xe7\xb3"',
        b'"\xed\xa0\x80"',
        b'"\xed\xbf\xbf"', b'"\xf0\x80\x80\x80"', b'"\xf4\x90\x80\x80"', b'"\xf5\x80\x80\x80"', b'"\xfe"', b'"\xff"',
        b"\xff", b"\xff\xfe1\x00", b"\xfe\xff\x001", '"a"'.encode("utf-16-le"), '"a"'.encode("utf-16-be"),
        '"a"'.encode("utf-32-le"),
        "12".encode("utf-16"), '"é"'.encode("latin1"), '"糖"'.encode("gb18030"), b'\xef\xbb\xbf"a"', b"\xef\xbb\xbf",
        b"\xef\xbb",
        b"\xef\xbb\xbf\xef\xbb\xbf1", b'{"\xff":1}',
    ],
}  # fmt: skip

# What Python takes and we do not.
STRICTER = {
    "NaN and infinities, which are not JSON": {"NaN", "Infinity", "-Infinity"},
    "a number beyond float64, which Python makes infinite": {"1e400", "-1e400"},
    "half a surrogate pair, which no UTF-8 can hold": {
        '"\\ud800"', '"\\udbff"', '"\\udc00"', '"\\udfff"', '"\\ud800a"', '"\\ud800\\n"', '"\\ud800\\ud800"',
        '"\\udc00\\ud800"',
        '"\\ud800\\u0041"', '"\\ud800\\ud800\\udc00"', '"\\ud800\\\\udc00"',
    },
    "a key given twice": {'{"a":1,"a":1}', '{"a":1,"a":2}', '{"a":1,"\\u0061":2}', '{"":1,"":2}',
    '[{"a":{"b":1,"b":2}}]'},
}  # fmt: skip
# What we take and Python does not, at the beginning of a file.
LOOSER = {"\ufeff1", b'\xef\xbb\xbf"a"'}
# Integers beyond 64 bits, which are float64 to us.
ROUNDED = {"18446744073709551616", "-9223372036854775809", "123456789012345678901234567890"}


def is_too_deep(case, around):
    """More than 128 levels: of a file, or of a row, which is one itself."""
    return case in JSON["nesting"] and case.count("[") == case.count("]") and case.count("{") == case.count("}") and (
        case.count("[") + case.count("{") + around > 128
    )


def bytes_of(case):
    return case if isinstance(case, bytes) else case.encode("utf-8", "surrogatepass")


def theirs(text):
    """(accepted, value) of Python's json."""
    try:
        return True, json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        return False, str(error)


def test_json_texts(tmp_path, capsys):
    cases = [case for category in JSON.values() for case in category]
    assert len(cases) == len(set(map(bytes_of, cases))) >= 150
    listed = set().union(*STRICTER.values())
    assert listed | LOOSER | ROUNDED <= set(cases)
    files = [bytes_of(case) for case in cases]
    rows = [b'[{"text":"the","x":' + case + b"}]" for case in files]
    problems, counts = [], {(ok, same): 0 for ok in (True, False) for same in (True, False)}
    for kind, contents in ("value.json", files), ("rows.jsonl", rows):
        folder = tmp_path / kind
        folder.mkdir()
        is_row = kind == "rows.jsonl"
        for case, content, (is_ok, result) in zip(cases, contents, ours("data", kind, contents, folder)):
            their_ok, value = theirs(content)
            is_listed = case in listed or is_too_deep(case, is_row) or (case in LOOSER and not is_row)
            counts[is_ok, is_ok == their_ok] += 1
            if (is_ok != their_ok) != is_listed or (is_listed and is_ok != (case in LOOSER)):
                problems.append(f"{kind} {case[:60]!r}: ours {result[:100]!r}, Python's {str(value)[:100]!r}")
            elif is_ok and their_ok and not is_row and json.loads(result) != (float(value) if case in ROUNDED else value):
                problems.append(f"{kind} {case[:60]!r}: ours is {result}")
    with capsys.disabled():
        print(f"\nJSON texts: {len(cases)}, as files and in rows: as Python's {counts[True, True]} accepted and "
              f"{counts[False, True]} refused; only by us {counts[True, False]} accepted, "
              f"{counts[False, False]} refused")  # fmt: skip
    assert not problems, "\n".join(problems)


# safetensors ------------------------------------------------------------------------------------------------------------


def file_of(header, data=b""):
    header = header.encode() if isinstance(header, str) else header
    return len(header).to_bytes(8, "little") + header + data


def tensor(dtype="F32", shape="[1]", offsets="[0,4]", name="a", more=""):
    return f'"{name}":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}{more}}}'


FOUR = b"\0\0\x80?"
TENSORS = {
    "one": file_of("{" + tensor() + "}", FOUR),
    "none": file_of("{}"),
    "white space": file_of(" \n\t{ " + tensor() + " }  ", FOUR),
    "metadata": file_of('{"__metadata__":{"format":"pt"},' + tensor() + "}", FOUR),
    "metadata null": file_of('{"__metadata__":null,' + tensor() + "}", FOUR),
    "metadata of a number": file_of('{"__metadata__":{"a":1},' + tensor() + "}", FOUR),
    "metadata a list": file_of('{"__metadata__":[],' + tensor() + "}", FOUR),
    "empty name": file_of("{" + tensor(name="") + "}", FOUR),
    "scalar": file_of("{" + tensor(shape="[]") + "}", FOUR),
    "zero elements": file_of("{" + tensor(shape="[0,7]", offsets="[0,0]") + "}"),
    "two": file_of("{" + tensor() + "," + tensor(name="b", offsets="[4,8]") + "}", FOUR * 2),
    "two, later first": file_of("{" + tensor(name="b", offsets="[4,8]") + "," + tensor() + "}", FOUR * 2),
    "more of a tensor": file_of("{" + tensor(more=',"x":[1,{"y":null}]') + "}", FOUR),
    "six bits": file_of("{" + tensor("F6_E2M3", "[4]", "[0,3]") + "}", b"abc"),
    "four bits": file_of("{" + tensor("F4", "[2]", "[0,1]") + "}", b"a"),
    "half a byte": file_of("{" + tensor("F4", "[3]", "[0,1]") + "}", b"a"),
    "complex": file_of("{" + tensor("C64", "[1]", "[0,8]") + "}", FOUR * 2),
    "64 dimensions": file_of("{" + tensor(shape="[" + ",".join("1" * 64) + "]") + "}", FOUR),
    "65 dimensions": file_of("{" + tensor(shape="[" + ",".join("1" * 65) + "]") + "}", FOUR),
    "the same name twice": file_of("{" + tensor() + "," + tensor(offsets="[4,8]") + "}", FOUR * 2),
    "the same tensor twice": file_of("{" + tensor() + "," + tensor() + "}", FOUR),
    "the same key of a tensor twice": file_of("{" + tensor(more=',"dtype":"F32"') + "}", FOUR),
    "the same key of metadata twice": file_of('{"__metadata__":{"a":"1","a":"2"},' + tensor() + "}", FOUR),
    "the same foreign key twice": file_of("{" + tensor(more=',"x":{"y":1,"y":2}') + "}", FOUR),
    "overlap": file_of("{" + tensor() + "," + tensor(name="b", offsets="[2,6]") + "}", FOUR * 2),
    "the same bytes": file_of("{" + tensor() + "," + tensor(name="b") + "}", FOUR),
    "a hole": file_of("{" + tensor() + "," + tensor(name="b", offsets="[8,12]") + "}", FOUR * 3),
    "does not begin at 0": file_of("{" + tensor(offsets="[4,8]") + "}", FOUR * 2),
    "bytes left over": file_of("{" + tensor() + "}", FOUR + b"x"),
    "bytes missing": file_of("{" + tensor() + "}", FOUR[:3]),
    "end before begin": file_of("{" + tensor(offsets="[4,0]") + "}", FOUR),
    "shape of another size": file_of("{" + tensor(shape="[2]") + "}", FOUR),
    "product beyond 64 bits": file_of("{" + tensor(shape="[4294967296,4294967296,4]", offsets="[0,0]") + "}"),
    "a negative dimension": file_of("{" + tensor(shape="[-1]") + "}", FOUR),
    "a dimension of 1.0": file_of("{" + tensor(shape="[1.0]") + "}", FOUR),
    "a dimension of 2^64": file_of("{" + tensor(shape="[18446744073709551616]") + "}", FOUR),
    "three offsets": file_of("{" + tensor(offsets="[0,4,4]") + "}", FOUR),
    "unknown dtype": file_of("{" + tensor("F31") + "}", FOUR),
    "lower case dtype": file_of("{" + tensor("f32") + "}", FOUR),
    "no dtype": file_of('{"a":{"shape":[1],"data_offsets":[0,4]}}', FOUR),
    "fields in a list": file_of('{"a":["F32",[1],[0,4]]}', FOUR),
    "a tensor that is null": file_of('{"a":null}'),
    "a list": file_of("[]"),
    "nothing": b"",
    "seven bytes": b"\0" * 7,
    "an empty header": file_of(""),
    "a header beyond the file": (100).to_bytes(8, "little") + b"{}",
    "a header of 2^63": (1 << 63).to_bytes(8, "little") + b"{}",
    "a comma too many": file_of("{" + tensor() + ",}", FOUR),
    "a byte order mark": file_of("\ufeff{" + tensor() + "}", FOUR),
    "a comment": file_of("{" + tensor() + "}//", FOUR),
    "NUL bytes after": file_of("{" + tensor() + "}\0\0", FOUR),
    "Latin-1": file_of(("{" + tensor(name="é") + "}").encode("latin1"), FOUR),
    "half a surrogate": file_of("{" + tensor(name="\\ud800") + "}", FOUR),
    "NUL in a name": file_of("{" + tensor(name="\\u0000") + "}", FOUR),
    "nested 100 deep": file_of("{" + tensor(more=',"x":' + "[" * 100 + "]" * 100) + "}", FOUR),
    "nested 200 deep": file_of("{" + tensor(more=',"x":' + "[" * 200 + "]" * 200) + "}", FOUR),
}

# What the reference library takes and we do not.
STRICTER_TENSORS = {
    "65 dimensions": "at most 64 dimensions: LibTorch's own limit",
    "the same tensor twice": "two readers that disagree are an attack",
    "the same key of metadata twice": "the same",
    "the same foreign key twice": "the same",
    "fields in a list": "serde's other way to write a struct, which no writer uses",
}


def test_safetensors_files(tmp_path, capsys):
    assert len(TENSORS) >= 25 and STRICTER_TENSORS.keys() <= TENSORS.keys()
    problems, counts = [], {True: 0, False: 0}
    answers = ours("safetensors", "model.safetensors", TENSORS.values(), tmp_path)
    for (name, content), (is_ok, result) in zip(TENSORS.items(), answers):
        try:
            names = sorted(name for name, _ in deserialize(content))
            their_ok = True
        except SafetensorError as error:
            names, their_ok = str(error), False
        counts[is_ok] += 1
        if is_ok != (their_ok and name not in STRICTER_TENSORS):
            problems.append(f"{name}: ours {result[:100]!r}, theirs {names}")
        elif name in STRICTER_TENSORS and not their_ok:
            problems.append(f"{name}: no difference any more")
    with capsys.disabled():
        print(f"\nsafetensors files: {counts[True]} accepted, {counts[False]} refused, of which "
              f"{len(STRICTER_TENSORS)} only by us")  # fmt: skip
    assert not problems, "\n".join(problems)
