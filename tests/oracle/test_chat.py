"""Chats: rendered text, ids and labels of the programs beside transformers and PyPI's tokenizers.

    RANKFOLD_BIN=build/bin build/venv/bin/python -m pytest -q tests/oracle/test_chat.py

RANKFOLD_CHAT_PROMPTS is the number of texts that lora-generate --print_prompt renders, 8 unless set (each is a process
that loads LibTorch, about a second); 0 is all of them. The interpreter renders all of them in any case.
The tests without a program say that the two forms of each template agree, and that the blocks follow the rule.
"""

import copy
import dataclasses
import datetime
import itertools
import json
import os
import re
import tempfile
import types
import unicodedata
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jinja2
import pytest
import transformers.utils.chat_template_utils as chat_templates
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

import models
from chat_cases import CHATS, OTHER_MARKS, SMALL, TEMPLATES
from chat_cases import Chat, as_given, asks, call, leaves, result, says, strings, turns
from conftest import run
from tokenizer_families import make_file

PROMPTS = int(os.environ.get("RANKFOLD_CHAT_PROMPTS", 8))
DATE = "2025-03-07 09:05:03"
# Letters: Python's form of a text shows them as they are.
SENTINEL, OPEN, CLOSE = "\ua66e", "\uac00", "\uac01"
LETTERS = 0xAC10  # and the thousands behind it
NUMBER = 73570941863297529816


class FixedDate(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.strptime(DATE, "%Y-%m-%d %H:%M:%S")


@pytest.fixture(scope="module", autouse=True)
def fixed_date():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chat_templates, "datetime", FixedDate)
        patch.setattr(chat_templates, "json", types.SimpleNamespace(dumps=dumps))
        yield


def both(work, items):
    """The results of two at a time: a process loads LibTorch, about a second."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(work, items))


# What transformers makes of a chat -----------------------------------------------------------------------------------


class ChatFolder:
    """A model folder with a template's tokenizer, and the same tokenizer in transformers."""

    def __init__(self, root, name, template_in_config=True):
        self.name, self.template = name, TEMPLATES[name]
        self.origins = {}  # what provenance found
        self.folder = root / name
        self.folder.mkdir()
        file = make_file(self.template.tokenizer, self.folder / "tokenizer.json")
        file["post_processor"] = None  # its ByteLevel cuts blanks off the offsets
        self.file = json.dumps(file)
        self.tokenizer = Tokenizer.from_str(self.file)
        self.added = {t["content"]: t for t in file["added_tokens"]}
        self.control = {t["id"] for t in file["added_tokens"] if self._is_control(t)}
        self._write_config(template_in_config)
        self._write_model(self.tokenizer.get_vocab_size())

    def _is_control(self, token):
        named = {self.template.bos, self.template.eos, *self.template.ends, *self.template.stops}
        return token["special"] or token["content"] in named

    def _named(self):
        named = {"bos_token": self.template.bos, "eos_token": self.template.eos}
        return {k: v for k, v in named.items() if v is not None}

    def _write_config(self, with_template):
        config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **self._named()}
        if self.name in ("llama-2", "qwen-3"):  # as objects, as older files have them
            config |= {k: {"__type": "AddedToken", **self.added[v]} for k, v in self._named().items()}
        if with_template:
            config["chat_template"] = self.template.plain
        (self.folder / "tokenizer_config.json").write_text(json.dumps(config))

    def _write_model(self, vocabulary):
        ids = {k: self.added[v]["id"] for k, v in self._named().items()}
        stops = [self.added[t]["id"] for t in (self.template.eos, *self.template.stops)]
        config = dict(
            vocab_size=vocabulary, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=2, max_position_embeddings=8192, bos_token_id=ids.get("bos_token"),
            eos_token_id=ids["eos_token"],
        )  # fmt: skip
        tokenizer_files = {p: p.read_bytes() for p in self.folder.iterdir()}
        models.save(self.folder.parent, self.name, models.llama(1, **config))
        for path, content in tokenizer_files.items():
            path.write_bytes(content)
        (self.folder / "generation_config.json").write_text(json.dumps({"eos_token_id": stops}))

    @property
    def transformers(self):
        if not hasattr(self, "_transformers"):
            flags = ("lstrip", "rstrip", "single_word", "normalized", "special")
            tokens = {k: AddedToken(v, **{f: self.added[v][f] for f in flags}) for k, v in self._named().items()}
            self._transformers = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(self.file), **tokens)
        return self._transformers

    def text(self, source, chat, **kwargs):
        return self.transformers.apply_chat_template(
            as_given(copy.deepcopy(chat.messages)), tools=chat.tools, chat_template=source, tokenize=False, **kwargs
        )

    def text_and_blocks(self, source, chat):
        """The text with the generation blocks in it."""
        texts, blocks = chat_templates.render_jinja_template(
            [as_given(copy.deepcopy(chat.messages))], chat.tools, chat_template=source,
            return_assistant_tokens_mask=True, **self.transformers.special_tokens_map,
        )  # fmt: skip
        return texts[0], blocks[0]

    def mask(self, source, chat):
        """The ids with transformers' own mask."""
        out = self.transformers.apply_chat_template(
            as_given(copy.deepcopy(chat.messages)), tools=chat.tools, chat_template=source, tokenize=True,
            return_dict=True, return_assistant_tokens_mask=True,
        )  # fmt: skip
        return out["input_ids"], out["assistant_masks"]

    def encode(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False)

    def spells_control(self, chat):
        """Whether a message or a tool spells a control token."""
        texts = [text for text, _ in strings([chat.messages, chat.tools])]
        controls = [t for t, token in self.added.items() if token["id"] in self.control]
        return any(c in text for c in controls for text in texts)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("chats")
    made = {}

    def get(name):
        if name not in made:
            made[name] = ChatFolder(root, name)
        return made[name]

    return get


def renders(folder, source, chat, **kwargs):
    """The text, or None where the template refuses the chat."""
    if chat.has_parts and not folder.template.takes_parts:
        return None
    try:
        return folder.text(source, chat, **kwargs)
    except (jinja2.TemplateError, TypeError, AttributeError):
        return None


# The rule for plain templates ----------------------------------------------------------------------------------------


class TaggedDict(dict):
    """Prints tags around what a template prints of the whole of it: braces, digits and quotes with its texts."""

    def __str__(self):
        return OPEN + dict.__repr__(self) + CLOSE


class TaggedList(list):
    def __str__(self):
        return OPEN + list.__repr__(self) + CLOSE


class TaggedText(str):
    """Its own characters are found otherwise, these are the quotes of tojson."""


def dumps(value, **style):
    text = json.dumps(value, **style)
    return OPEN + text + CLOSE if isinstance(value, (TaggedDict, TaggedList, TaggedText)) else text


def tagged(value):
    if isinstance(value, dict):
        return TaggedDict((key, tagged(item)) for key, item in value.items())
    if isinstance(value, list):
        return TaggedList(map(tagged, value))
    return TaggedText(value) if isinstance(value, str) else value


def places_within_tags(other, text):
    places, plain, depth = [], "", 0
    for c in other or "":
        if c in (OPEN, CLOSE):
            depth += 1 if c == OPEN else -1
        else:
            places += [len(plain)] if depth else []
            plain += c
    return places if plain == text else []


def places_of_stand_in(other, text, stand_in, original):
    """Where another text stands in for one in `text`."""
    if other is None or stand_in not in other:
        return []  # it is not shown, or is one that the template looks at
    if len(stand_in) == len(original) and other.replace(stand_in, original) == text:  # shown once or more
        return [place for place, c in enumerate(other) if c == stand_in]
    before, _, after = other.partition(stand_in)
    if stand_in not in after and text.startswith(before) and text.endswith(after):  # trimmed, escaped, a number
        return range(len(before), len(text) - len(after))
    return []


def places_of_text(render, text, value, put):
    """Many characters at once where this is the same text but for them, else one after the other."""
    begin, end = len(value) - len(value.lstrip()), len(value.rstrip())
    letters = {chr(LETTERS + i): c for i, c in enumerate(value) if not c.isspace() or (c == " " and begin < i < end)}
    put("".join(chr(LETTERS + i) if chr(LETTERS + i) in letters else c for i, c in enumerate(value)))
    other = render() or ""
    is_same = "".join(letters.get(c, c) for c in other) == text
    places = [place for place, c in enumerate(other) if is_same and c in letters]
    for i, c in enumerate(value):
        if not is_same or chr(LETTERS + i) not in letters:
            put(value[:i] + SENTINEL + value[i + 1 :])
            places += places_of_stand_in(render(), text, SENTINEL, c)
    put(value)
    return places


def provenance(folder, source, chat):
    """{place: (message, whether of its tool_calls)} of the characters that come from a message, by putting something
    else in the place of its parts."""
    key = (source, json.dumps(chat.row()))
    if key in folder.origins:
        return folder.origins[key]
    text = folder.text(source, chat)
    origins = {}
    messages = copy.deepcopy(chat.messages)
    changed = dataclasses.replace(chat, messages=messages)

    def render():
        return renders(folder, source, changed)

    for index, message in enumerate(messages):
        for part, value in list(message.items()):
            if part == "role" or value is None:
                continue
            message[part] = tagged(value)
            places = places_within_tags(render(), text)
            message[part] = value
            for item, put in leaves(message, [part]):
                if isinstance(item, str):
                    places += places_of_text(render, text, item, put)
                else:
                    put(NUMBER)
                    places += places_of_stand_in(render(), text, str(NUMBER), "")
                    put(item)
            origins.update(dict.fromkeys(places, (index, part == "tool_calls")))
    folder.origins[key] = text, origins
    return text, origins


def headers_of(folder):
    """What opens an answer: behind a question, behind what a tool has said."""
    if hasattr(folder, "headers"):
        return folder.headers

    def between(chat):
        text, origins = provenance(folder, plain, chat)
        last = len(chat.messages) - 1
        answer = min(place for place in origins if origins[place][0] == last)
        return text[max((place for place in origins if place < answer), default=-1) + 1 : answer].rstrip()

    plain = folder.template.plain
    asked, answered = Chat("", turns("question")), Chat("", turns("question", "answer"))
    before, prompt = folder.text(plain, asked), folder.text(plain, asked, add_generation_prompt=True)
    if prompt != before and prompt.startswith(before):
        folder.headers = [prompt[len(before) :].partition("<think>")[0]]
    else:
        folder.headers = [between(answered)]
    calls = [call("find", {"word": "question"})]
    try:
        folder.headers.append(
            between(Chat("", [asks("question"), says("", tool_calls=calls), result("found"), says("answer")])))
    except jinja2.TemplateError:  # a template without tools
        pass
    return folder.headers


def learnt_spans(folder, chat, text, origins):
    """The rule at the head of chat_cases.py."""
    longest_first = sorted(folder.template.ends, key=len, reverse=True)
    found = re.finditer("|".join(map(re.escape, longest_first)), text)
    ends = {m.start(): m.end() for m in found if not any(place in origins for place in range(*m.span()))}
    spans, closed = [], set()  # closed: messages that had an end of turn
    begin = last = stop = speaker = None  # stop: behind the last end of turn since begin
    behind = 0  # behind the last character of a message, whoever speaks
    for place in range(len(text) + 1):
        owner, is_call = origins.get(place, (None, False))
        if begin is not None and (place == len(text) or owner not in (None, speaker)):
            if stop is not None:
                spans.append((begin, stop))
                closed.add(speaker)
            elif speaker not in closed:
                spans.append((begin, last))
            begin = None
        if owner is not None and chat.messages[owner]["role"] == "assistant":
            if begin is None:
                begin = place
                for header in headers_of(folder) if is_call else ():
                    if header and (at := text.rfind(header, behind, place)) >= 0:
                        begin = at + len(header)
                        break
                speaker, stop = owner, None
            last, is_open = place + 1, True
        if begin is not None and is_open and place in ends:
            stop, is_open = ends[place], False
        if owner is not None:
            behind = place + 1
    return spans


@pytest.mark.parametrize("name", TEMPLATES)
def test_forms_agree(name, folders):
    """Both forms render the same, and the blocks that show something of a message are what the rule says."""
    folder = folders(name)
    count = 0
    for chat in CHATS:
        if renders(folder, folder.template.plain, chat) is None:
            assert renders(folder, folder.template.marked, chat) is None
            continue
        count += 1
        text, blocks = folder.text_and_blocks(folder.template.marked, chat)
        plain, origins = provenance(folder, folder.template.plain, chat)
        assert plain == text, chat.name
        shown = [b for b in blocks if any(place in origins for place in range(*b))]
        spans = learnt_spans(folder, chat, text, origins)
        assert spans == shown, f"{chat.name}: {[text[a:b] for a, b in spans]} but {[text[a:b] for a, b in shown]}"
    assert count >= len(CHATS) / 2


# Rows ----------------------------------------------------------------------------------------------------------------


def labels_of(encoding, spans):
    """Of each span the tokens from the one that holds the first character to the one that holds the last."""
    labels = [-100] * len(encoding.ids)
    for begin, end in spans:
        if begin == end:
            continue
        inside = [i for i, (a, b) in enumerate(encoding.offsets) if a < end and begin < b]
        for i in range(inside[0], inside[-1] + 1):
            labels[i] = encoding.ids[i]
    return labels


def expected_spans(folder, source, chat):
    """Of a marked form the blocks, of a plain one those that show something of their message."""
    text, blocks = folder.text_and_blocks(folder.template.marked if source == folder.template.plain else source, chat)
    if source != folder.template.plain:
        return text, blocks
    text, origins = provenance(folder, source, chat)
    return text, [b for b in blocks if any(place in origins for place in range(*b))]


def is_odd_end(encoding, end):
    """Whether a block ends in a character of several tokens, of none (normalising took it away), or of the first token:
    transformers then marks too little, or all the rest."""
    return sum(a <= end - 1 < b for a, b in encoding.offsets) != 1 or end <= encoding.offsets[0][1]


def dump(folder, files, out, *flags, code=0):
    """lora-train --dry_run over data files; its rows, or its lines on stderr."""
    out = Path(tempfile.mkdtemp(dir=out))
    rows = out / "rows.jsonl"
    done = run(
        "lora-train", "--model_name_or_path", folder.folder, "--dataset", ",".join(map(str, files)),
        "--output_dir", out / "output", "--target_modules", "all-linear", "--dry_run", "--dump_rows", rows,
        "--max_length", 8192, *flags, code=code,
    )  # fmt: skip
    assert not (out / "output").exists()
    if code:
        return done.stderr.splitlines()
    return [json.loads(line) for line in rows.read_text().splitlines()], done.stdout + done.stderr


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return path


def same_labels(ours, expected):
    return ours[1:] == expected[1:]  # nothing comes before the first token


def by_bytes(folder, ids):
    """The text of a byte-level tokenizer's ids, and the range of each id in it; no id is left out."""
    alphabet = byte_alphabet()
    pieces = []
    for id in ids:
        piece = folder.tokenizer.id_to_token(id)
        pieces.append(piece.encode() if piece in folder.added else bytes(alphabet[c] for c in piece))
    data = b"".join(pieces)
    begins = (byte & 0xC0 != 0x80 for byte in data)
    character = list(itertools.accumulate(begins, initial=0))  # how many begin before a byte
    ends = list(itertools.accumulate(map(len, pieces), initial=0))
    return data.decode(), [(character[a + 1] - 1, character[b]) for a, b in zip(ends, ends[1:])]


def byte_alphabet():
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in shown]
    return {chr(b): b for b in shown} | {chr(256 + i): b for i, b in enumerate(others)}


Cut = namedtuple("Cut", "ids offsets")  # what labels_of takes of an encoding


def check_spelled(folder, source, chat, row, text, spans):
    """A message that spells control tokens gets none: those of the row are the template's."""
    neutral = copy.deepcopy(chat)
    controls = [t for t, token in folder.added.items() if token["id"] in folder.control]
    for value, put in list(strings([neutral.messages, neutral.tools])):
        for token in controls:
            value = value.replace(token, "x")
        put(value)
    written = [i for i in folder.encode(folder.text(source, neutral)).ids if i in folder.control]
    assert [i for i in row["input_ids"] if i in folder.control] == written, chat.name
    # Where pieces are bytes of the text itself, these say what each token holds.
    if folder.template.tokenizer.get("bytes", True) and unicodedata.is_normalized("NFC", text):
        decoded, ranges = by_bytes(folder, row["input_ids"])
        assert decoded == text, chat.name
        assert same_labels(row["labels"], labels_of(Cut(row["input_ids"], ranges), spans)), chat.name


def check_rows(folder, sources, tmp_path):
    """The rows of all chats that teach something, by each template source."""
    given = {source: learnt_chats(folder, source) for source in sources}

    def rows_of(number):
        source, place = sources[number], tmp_path / str(number)
        place.mkdir()
        data = write(place / "chats.jsonl", [chat.row() for chat, _, _ in given[source]])
        flags = ["--template_date", DATE]
        if source != folder.template.plain:
            (place / "marked.jinja").write_text(source)
            flags += ["--chat_template", place / "marked.jinja"]
        return dump(folder, [data], place, *flags)[0]

    all_rows = both(rows_of, range(len(sources)))
    for source, rows in zip(sources, all_rows):
        check_source(folder, source, given[source], rows)


def learnt_chats(folder, source):
    """(chat, text, learnt spans)"""
    chats = []
    for chat in CHATS:
        if renders(folder, source, chat) is None:
            continue
        text, spans = expected_spans(folder, source, chat)
        if any(label != -100 for label in labels_of(folder.encode(text), spans)[1:]):
            chats.append((chat, text, spans))
    assert len(chats) >= len(CHATS) / 2
    return chats


def check_source(folder, source, chats, rows):
    assert len(rows) == len(chats)
    spelled, wrong = 0, []
    for row, (chat, text, spans) in zip(rows, chats):
        assert all(label in (-100, id) for label, id in zip(row["labels"], row["input_ids"]))
        if folder.spells_control(chat):
            check_spelled(folder, source, chat, row, text, spans)
            spelled += 1
            continue
        encoding = folder.encode(text)
        assert row["input_ids"] == encoding.ids, f"{chat.name}: {text!r}"
        if not same_labels(row["labels"], labels_of(encoding, spans)):
            wrong.append(f"{chat.name}: {shown(folder, row)}, expected {[text[a:b] for a, b in spans]}")
    assert not wrong, "\n".join(wrong)
    assert spelled >= 3


def shown(folder, row):
    """The parts that are learnt."""
    groups = itertools.groupby(row["labels"], lambda label: label != -100)
    return [folder.tokenizer.decode(list(labels), skip_special_tokens=False) for learnt, labels in groups if learnt]


@pytest.mark.parametrize("name", TEMPLATES)
def test_rows(name, folders, tmp_path):
    """By the folder's plain template, by its marked form, and by one with other marks."""
    template = TEMPLATES[name]
    others = [OTHER_MARKS[name]] if name in OTHER_MARKS else []
    check_rows(folders(name), [template.plain, template.marked, *others], tmp_path)


@pytest.mark.parametrize("name", SMALL)
def test_small_templates(name, folders, tmp_path):
    folder = folders("own end")
    source, messages, learnt = SMALL[name]
    (tmp_path / "plain.jinja").write_text(source)
    data = write(tmp_path / "chats.jsonl", [{"messages": messages}])
    rows, _ = dump(folder, [data], tmp_path, "--chat_template", tmp_path / "plain.jinja")
    assert rows[0]["input_ids"] == folder.encode(folder.text(source, Chat(name, messages))).ids
    assert shown(folder, rows[0]) == learnt


@pytest.mark.parametrize("name", [*TEMPLATES, *(f"other {name}" for name in OTHER_MARKS)])
def test_mask_of_transformers(name, folders):
    """The expected labels of marked templates are transformers' own mask."""
    folder = folders(name.removeprefix("other "))
    source = OTHER_MARKS[folder.name] if name.startswith("other") else folder.template.marked
    left_out = 0
    for chat in CHATS:
        if renders(folder, source, chat) is None:
            continue
        text, blocks = folder.text_and_blocks(source, chat)
        encoding = folder.encode(text)
        ids, mask = folder.mask(source, chat)
        assert ids == encoding.ids, f"{chat.name}: {text!r}"
        if any(is_odd_end(encoding, end) for _, end in blocks):
            left_out += 1
            continue
        learnt = [label != -100 for label in labels_of(encoding, blocks)]
        assert learnt == list(map(bool, mask)), f"{chat.name}: {text!r}"
    assert left_out == 0 or name in ("glm", "other glm", "other phi-3")  # where blocks end without a tag
    assert left_out < len(CHATS) / 4


# Prompts -------------------------------------------------------------------------------------------------------------


def print_prompt(folder, given, path, *flags, code=0):
    path.write_text(json.dumps(given))
    words = ["--model_name_or_path", folder, "--messages", path, "--print_prompt", *flags]
    done = run("lora-generate", *words, code=code, text=False)
    return done.stderr.decode() if code else done.stdout.decode()


def all_prompts():
    """(template, chat, kwargs, add_generation_prompt)"""
    return [
        (name, chat, kwargs, is_prompt)
        for name, template in TEMPLATES.items()
        for chat in CHATS
        for kwargs in template.kwargs
        for is_prompt in (True, False)
        if not chat.has_parts or template.takes_parts
    ]


def test_every_prompt_by_the_interpreter(folders, tmp_path, monkeypatch):
    jinja = pytest.importorskip("test_jinja")
    monkeypatch.setattr(chat_templates, "datetime", jinja.FixedDate)
    cases = []
    for name, chat, kwargs, is_prompt in all_prompts():
        given = {"messages": as_given(chat.messages), "tools": chat.tools, "add_generation_prompt": is_prompt}
        cases.append((TEMPLATES[name].plain, folders(name).transformers.special_tokens_map | given | kwargs))
        if is_prompt == bool(kwargs):
            cases.append((TEMPLATES[name].marked, cases[-1][1]))
    jinja.check(tmp_path, cases)


def test_origins(folders, tmp_path):
    """The interpreter says of the same characters that they come from a message."""
    jinja = pytest.importorskip("test_jinja")
    found, cases = [], []
    for name, template in TEMPLATES.items():
        folder = folders(name)
        for chat in CHATS if name != "dated" else ():  # which the program renders on another day
            if renders(folder, template.plain, chat) is None:
                continue
            found.append((name, chat, *provenance(folder, template.plain, chat)))
            given = {"messages": as_given(chat.messages), "tools": chat.tools, "add_generation_prompt": False}
            cases.append((template.plain, folder.transformers.special_tokens_map | given))
    for (name, chat, text, origins), ours in zip(found, jinja.rendered(tmp_path, cases), strict=True):
        data = text.encode()
        assert ours["text"] == text
        places = {}
        for begin, end, message in ours["origins"]:
            part = range(len(data[:begin].decode()), len(data[:end].decode()))
            is_role = message >= 0 and data[begin:end].decode() == chat.messages[message]["role"]
            if message >= 0 and not (is_role and part[0] not in origins):
                places |= dict.fromkeys(part, message)
        written_anew = "\n> " if name == "deepseek" else ""  # it splits texts into lines
        expected = {p: message for p, (message, _) in origins.items() if p in places or text[p] not in written_anew}
        assert places == expected, f"{name}, {chat.name}: {text!r}"


def test_prompts(folders, tmp_path):
    for name in TEMPLATES:
        folders(name)
    cases = all_prompts()
    step = 1 if PROMPTS == 0 else max(1, len(cases) // PROMPTS | 1)  # odd: both values of add_generation_prompt
    cases = list(enumerate(cases[::step]))

    def check(case):
        number, (name, chat, kwargs, is_prompt) = case
        folder = folders(name)
        try:
            expected = folder.text(folder.template.plain, chat, add_generation_prompt=is_prompt, **kwargs)
        except Exception as error:  # whatever Python raises is an error here
            expected = error
        given = chat.messages if number % 2 and chat.tools is None else chat.row()
        flags = ["--template_date", DATE]
        flags += ["--chat_template_kwargs", json.dumps(kwargs)] if kwargs else []
        flags += [] if is_prompt else ["--add_generation_prompt", "false"]
        code = 2 if isinstance(expected, Exception) else 0
        ours = print_prompt(folder.folder, given, tmp_path / f"{number}.json", *flags, code=code)
        if code == 0:
            return None if ours == expected else f"{name}, {chat.name}, {flags}: expected {expected!r}, got {ours!r}"
        is_chosen = type(expected) is jinja2.TemplateError  # raise_exception
        is_told = not is_chosen or str(expected) in ours
        is_line = "\n" not in ours.rstrip("\n")
        return None if is_told and is_line else f"{name}, {chat.name}: expected {expected!r}, got {ours!r}"

    wrong = [line for line in both(check, cases) if line]
    assert not wrong, f"{len(wrong)} of {len(cases)}\n" + "\n".join(wrong[:20])


def test_prompt_needs_only_the_template(folders, tmp_path):
    """Neither weights nor tokenizer.json; which template it is; texts of special tokens."""
    chat = turns("Hi", "Hello", "Bye")
    folder = tmp_path / "bare"
    (folder / "additional_chat_templates").mkdir(parents=True)
    sources = {"default": "default{{ eos_token }}", "tool_use": "tools{{ tools | length }}"}
    config = {
        "chat_template": [{"name": name, "template": source} for name, source in sources.items()],
        "bos_token": {"__type": "AddedToken", "content": "<B>"}, "eos_token": "<E>", "pad_token": None,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    brief = "brief{{ bos_token }}{{ pad_token is defined }}{{ eos_token }}\n"
    (folder / "additional_chat_templates" / "brief.jinja").write_text(brief)
    tools = [{"type": "function", "function": {"name": "f"}}]
    (tmp_path / "own.jinja").write_text("{{ messages[0].content }}|{{ documents[0].title }}|{{ bos_token }}\r\n")
    kwargs = ["--chat_template_kwargs", '{"bos_token": "<O>"}']
    cases = [  # what is given, flags, the text
        (chat, [], "default<E>"),
        ({"messages": chat, "tools": tools}, [], "tools1"),
        (chat, ["--chat_template", "brief"], "brief<B>False<E>"),
        ({"messages": chat, "documents": [{"title": "T", "text": "x"}]},
         ["--chat_template", tmp_path / "own.jinja", *kwargs], "Hi|T|<O>"),
    ]  # fmt: skip

    def prompt(case):
        number, (given, flags, _) = case
        return print_prompt(folder, given, tmp_path / f"{number}.json", *flags)

    assert both(prompt, enumerate(cases)) == [expected for _, _, expected in cases]
    (folder / "chat_template.jinja").write_text("file of {{ messages | length }}")
    assert print_prompt(folder, chat, tmp_path / "chat.json") == "file of 3"


def test_parts_that_a_template_refuses(folders, tmp_path):
    chat = next(chat for chat in CHATS if chat.has_parts)
    print_prompt(folders("chatml").folder, chat.row(), tmp_path / "chat.json", code=2)


BUILT_IN = ("baichuan", "baichuan2", "llama2", "chatml", "alpaca", "vicuna")


def test_built_in_templates(folders, tmp_path):
    folder = ChatFolder(tmp_path, "chatml", template_in_config=False)
    chat = turns("one question", "one answer", "another question", system="one system")
    names = [name for name in BUILT_IN if name != "baichuan2"]  # by control ids, which this vocabulary lacks

    def prompt(name):
        flags = ["--chat_template", name] if name else []
        return print_prompt(folder.folder, chat, tmp_path / f"{name}.json", *flags, code=0 if name else 2)

    refused, *texts = both(prompt, ["", *names])
    assert all(name in refused for name in BUILT_IN)
    for name, text in zip(names, texts):
        places = [text.find(message["content"]) for message in chat]
        assert -1 not in places and places == sorted(places), f"{name}: {text!r}"
    assert texts[names.index("chatml")] == (
        "<|im_start|>system\none system<|im_end|>\n<|im_start|>user\none question<|im_end|>\n"
        "<|im_start|>assistant\none answer<|im_end|>\n<|im_start|>user\nanother question<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


# Errors, layouts, options --------------------------------------------------------------------------------------------


REFUSED = {
    "llama-2": ([asks("a"), asks("b"), says("c")], None),
    "llama-3": ([asks("a"), says("", tool_calls=[call("f", {}), call("g", {})])], None),
    "deepseek": ([asks("a"), {"role": "narrator", "content": "b"}, says("c")], None),
}


def test_rows_that_a_template_refuses(folders, tmp_path):
    for name in REFUSED:
        folders(name)

    def check(name):
        folder, chat = folders(name), Chat("refused", *REFUSED[name])
        with pytest.raises(jinja2.TemplateError) as refused:
            folder.text(folder.template.plain, chat)
        path = write(tmp_path / f"{name}.jsonl", [{"messages": turns("Hi", "Hello")}] * 3 + [chat.row()])
        line = dump(folder, [path], tmp_path, code=2)[-1]
        assert f"{name}.jsonl:4" in line and str(refused.value) in line

    both(check, REFUSED)


SYSTEM = "You count."
ALL_LAYOUTS = {
    "messages": {"messages": turns("one", "first", "two", "second", "three\n3", "third", system=SYSTEM)},
    "sharegpt": {"conversations": [
        {"from": "system", "value": SYSTEM}, {"from": "human", "value": "one"}, {"from": "gpt", "value": "first"},
        {"from": "human", "value": "two"}, {"from": "gpt", "value": "second"}, {"from": "human", "value": "three\n3"},
        {"from": "gpt", "value": "third"}]},
    "sharegpt with system": {"system": SYSTEM, "conversations": [
        {"from": "human", "value": "one"}, {"from": "gpt", "value": "first"}, {"from": "human", "value": "two"},
        {"from": "gpt", "value": "second"}, {"from": "human", "value": "three\n3"}, {"from": "gpt", "value": "third"}]},
    "alpaca": {"instruction": "three", "input": "3", "output": "third", "system": SYSTEM,
               "history": [["one", "first"], ["two", "second"]]},
}  # fmt: skip


@pytest.mark.parametrize("name", ["chatml", "llama-2"])
def test_layouts(name, folders, tmp_path):
    """The layouts of one chat, each in a file of its own, and an array with another layout in it."""
    folder = folders(name)
    whole, other = Chat("", ALL_LAYOUTS["messages"]["messages"]), CHATS[0]
    files = [write(tmp_path / f"{layout}.jsonl", [row]) for layout, row in ALL_LAYOUTS.items()]
    files.append(tmp_path / "array.json")
    files[-1].write_text(json.dumps([ALL_LAYOUTS["sharegpt"], other.row(), ALL_LAYOUTS["alpaca"]]))
    rows, said = dump(folder, files, tmp_path)
    given = [*dict.fromkeys(ALL_LAYOUTS, whole).items(), *zip(("array",) * 3, (whole, other, whole))]
    for row, (layout, chat) in itertools.zip_longest(rows, given):
        text, spans = expected_spans(folder, folder.template.plain, chat)
        encoding = folder.encode(text)
        assert row["input_ids"] == encoding.ids, layout
        assert same_labels(row["labels"], labels_of(encoding, spans)), f"{layout}: {shown(folder, row)}"
    assert f"[[third{folder.template.eos}]]" in said or f"[[third {folder.template.eos}]]" in said


@pytest.mark.parametrize("name", ["gpt-oss", "glm"])
def test_last_turn_and_prompt(name, folders, tmp_path):
    folder = folders(name)
    names = ("three turns", "equal", "reasoning", "reasoning before", "tool after both", "ends with a question")
    chats = [chat for chat in CHATS if chat.name in names]
    path = write(tmp_path / "chats.jsonl", [chat.row() for chat in chats])
    flags = ("--train_on_last_turn", "--train_on_prompt")
    (last, _), (whole, _) = both(lambda flag: dump(folder, [path], tmp_path, flag, "true"), flags)
    assert len(last) == len(whole) == len(chats)
    for chat, one, all_ in zip(chats, last, whole):
        text, origins = provenance(folder, folder.template.plain, chat)
        encoding = folder.encode(text)
        assert one["input_ids"] == all_["input_ids"] == encoding.ids, chat.name
        assert same_labels(all_["labels"], encoding.ids), chat.name
        answers = [i for i, message in enumerate(chat.messages) if message["role"] == "assistant"]
        spans = learnt_spans(folder, chat, text, origins)
        spans = [s for s in spans if any(answers[-1] in origins.get(place, ()) for place in range(*s))]
        assert same_labels(one["labels"], labels_of(encoding, spans)), f"{chat.name}: {shown(folder, one)}"


def test_date(folders, tmp_path):
    """Variables of the user's, one of them in the place of a date that is needed otherwise."""
    folder = folders("dated")
    chat = Chat("", turns("Which day is it?", "Friday."))
    assert "Today is 07 March 2025, 09:05:03." in folder.text(folder.template.plain, chat)  # as test_rows has it
    kwargs = {"date_string": "a day"}
    path = write(tmp_path / "chat.jsonl", [chat.row()])
    rows, _ = dump(folder, [path], tmp_path, "--chat_template_kwargs", json.dumps(kwargs))
    assert rows[0]["input_ids"] == folder.encode(folder.text(folder.template.plain, chat, **kwargs)).ids
