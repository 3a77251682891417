"""tokenizer.json of each family: its pipeline as the real files have it, its pieces trained here on text of our own."""

import functools
import json
import random

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

MARK = "\u2581"
R1 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
R2 = R1.replace(r"\p{N}{1,3}", r"\p{N}")
R3A = r"\p{N}{1,3}"
R3B = "[一-龥\u3040-ゟ゠-ヿ]+"
R3C = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
).replace('\\"', '"')
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
R4 = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SUFFIX = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
R5 = (
    R4.replace(f"{LOWER}+|", f"{LOWER}+{SUFFIX}|").replace(f"{LOWER}*|", f"{LOWER}*{SUFFIX}|").replace(r"|\p{N}|", r"|\p{N}{1,3}|")
)


def split(regex, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}


def byte_level(use_regex=False, add_prefix_space=False):
    return {
        "type": "ByteLevel",
        "add_prefix_space": add_prefix_space,
        "trim_offsets": True,
        "use_regex": use_regex,
    }


def sequence(key, *parts):
    return {"type": "Sequence", key: list(parts)}


def replace(text, content):
    return {"type": "Replace", "pattern": {"String": text}, "content": content}


def template(*before):
    return {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": b, "type_id": 0}} for b in before] + [{"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {b: {"id": b, "ids": [1], "tokens": [b]} for b in before},
    }


def added(text, special=True, **flags):
    return {
        "content": text,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": special,
        **flags,
    }


CHAT = [added("<|endoftext|>"), added("<|im_start|>"), added("<|im_end|>")]
QWEN = CHAT + [added(t, special=False) for t in ("<tool_call>", "</tool_call>", "<think>", "</think>")]
LLAMA_2 = [added(t, normalized=False) for t in ("<unk>", "<s>", "</s>")]
OLD_LLAMA_2 = [added(t, normalized=True) for t in ("<unk>", "<s>", "</s>")]
PHI_3 = [added("<unk>"), added("<s>"), added("</s>", special=False, rstrip=True)]
PHI_3 += [added(t, rstrip=True) for t in ("<|endoftext|>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>")]
PHI_4 = [added(t, lstrip=True, rstrip=True) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|im_sep|>")]
SPACES = [added(" " * n, special=False, normalized=True) for n in range(31, 1, -1)]
TABS = [added("\t" * n, special=False, normalized=True) for n in range(9, 1, -1)]
GEMMA = [added(t) for t in ("<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>")]
GEMMA += [added("\n" * n, special=False) for n in range(2, 8)] + [added("<table>", special=False)]
GEMMA += [added(MARK * n, special=False) for n in range(2, 8)]
ODD = [
    added("<|word|>", special=False, single_word=True),
    added("word", special=False, single_word=True, normalized=True),
    added("<mask>", lstrip=True),
    added("é!", special=False, normalized=True),
    added("<|end", special=False),
]

LLAMA_2_DECODER = sequence(
    "decoders",
    replace(MARK, " "),
    {"type": "ByteFallback"},
    {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0},
)
LLAMA_2_NORMALIZER = sequence("normalizers", {"type": "Prepend", "prepend": MARK}, replace(" ", MARK))
METASPACE = {"type": "Metaspace", "replacement": MARK, "prepend_scheme": "first", "split": False}

# Of each: what differs from a byte-level model with a Split and ByteLevel. pcre2: characters newer than PCRE2's Unicode are
# left out. ranges: False where the library puts unknown characters after later bytes, and their ranges too.
FAMILIES = {
    "llama-2": dict(bytes=False, normalizer=LLAMA_2_NORMALIZER, added=LLAMA_2, decoder=LLAMA_2_DECODER, post=template("<s>")),
    "tinyllama": dict(bytes=False, normalizer=LLAMA_2_NORMALIZER, added=OLD_LLAMA_2 + ODD, decoder=LLAMA_2_DECODER, post=template("<s>")),
    "mistral-v0.3": dict(bytes=False, pre=METASPACE, added=LLAMA_2 + ODD, decoder=LLAMA_2_DECODER, post=template("<s>")),
    "metaspace-split": dict(
        bytes=False,
        pre={**METASPACE, "prepend_scheme": "always", "split": True},
        added=LLAMA_2,
        decoder={"type": "Metaspace", "replacement": MARK, "prepend_scheme": "always", "split": True},
    ),
    "phi-3": dict(bytes=False, normalizer=LLAMA_2_NORMALIZER, added=PHI_3, decoder=LLAMA_2_DECODER, post=template()),
    "gemma": dict(
        bytes=False,
        normalizer=replace(" ", MARK),
        pre={"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
        added=GEMMA,
        decoder=sequence("decoders", replace(MARK, " "), {"type": "ByteFallback"}, {"type": "Fuse"}),
        post=template("<bos>"),
    ),
    "chatglm3": dict(
        bytes=False,
        normalizer=sequence("normalizers", replace("<!dummy-prefix!>", MARK), replace(" ", MARK)),
        pre={"type": "Split", "pattern": {"String": "<!dummy-prefix!>"}, "behavior": "MergedWithNext", "invert": False},
        added=[added(t) for t in ("<unk>", "[gMASK]", "<!sop!>")] + [added("<|user|>", special=False)],
        decoder=sequence("decoders", {"type": "ByteFallback"}, {**METASPACE, "prepend_scheme": "always", "split": True}),
        post=template("[gMASK]", "<!sop!>"),
    ),
    "no-bytes": dict(bytes=False, fallback=False, normalizer=LLAMA_2_NORMALIZER, added=LLAMA_2, decoder=LLAMA_2_DECODER),
    "some-bytes": dict(bytes=False, fallback="some", fuse=False, ranges=False, normalizer=LLAMA_2_NORMALIZER, added=LLAMA_2, decoder=LLAMA_2_DECODER),
    "llama-3": dict(regex=R1, added=[added(t) for t in ("<|begin_of_text|>", "<|eot_id|>", "<|end_of_text|>")], ignore_merges=True,
                    post=sequence("processors", byte_level(True), template("<|begin_of_text|>"))),
    "glm-4": dict(regex=R1, added=[added(t) for t in ("[gMASK]", "<sop>", "<|user|>", "<|endoftext|>")], post=template("[gMASK]", "<sop>")),
    "qwen2": dict(regex=R2, normalizer={"type": "NFC"}, added=QWEN, post=byte_level()),
    "qwen-odd": dict(regex=R2, normalizer={"type": "NFC"}, added=QWEN + ODD, post=byte_level()),
    "deepseek": dict(
        normalizer=sequence("normalizers"),
        pre=sequence("pretokenizers", split(R3A), split(R3B), split(R3C), byte_level()),
        added=[added(f"<｜{t}▁of▁sentence｜>") for t in ("begin", "end")] + [added("<｜User｜>", special=False), added("<think>", special=False, normalized=True)],
    ),
    "tekken": dict(regex=R4, added=[added(t) for t in ("<unk>", "<s>", "</s>", "[INST]", "[/INST]")], ignore_merges=True, in_model=True, post=template("<s>")),
    "gpt-oss": dict(regex=R5, added=[added(t) for t in ("<|start|>", "<|end|>", "<|return|>", "<|channel|>", "<|message|>")]),
    "phi-4-mini": dict(regex=R5, added=PHI_4[:1] + [added(t, rstrip=True) for t in ("<|user|>", "<|end|>")]),
    "phi-4": dict(regex=R1, added=PHI_4),
    "phi-2": dict(pre=byte_level(use_regex=True), added=CHAT[:1] + SPACES + TABS, post=byte_level(True)),
    "gpt-2-prefix": dict(pre=byte_level(use_regex=True, add_prefix_space=True), added=CHAT[:1]),
    "smollm": dict(pre=sequence("pretokenizers", {"type": "Digits", "individual_digits": True}, byte_level(use_regex=True)), added=CHAT),
    "falcon": dict(
        pre=sequence(
            "pretokenizers",
            {"type": "Punctuation", "behavior": "Contiguous"},
            byte_level(use_regex=True),
            {"type": "Digits", "individual_digits": False},
            split("[0-9][0-9][0-9]"),
        ),
        added=[added(">>TITLE<<"), added("<|endoftext|>")],
        post=None,
    ),
    "qwen3.5": dict(regex=R2.replace(r"\p{L}+", r"[\p{L}\p{M}]+").replace(r"\s\p{L}\p{N}]+", r"\s\p{L}\p{M}\p{N}]+"), normalizer={"type": "NFC"}, added=QWEN),
    # Expressions that PCRE2 reads: like Ling's with possessive repeats, and some of our own.
    "ling": dict(pcre2=True, regex=r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+", added=CHAT),
    "removed": dict(pcre2=True, pre=sequence("pretokenizers", split(r"\s+", "Removed"), split(r"\p{Lu}", "MergedWithNext"), split(r"\p{Han}{2}|,", "MergedWithPrevious"), split(r"\d+", "Contiguous", True), byte_level()), added=CHAT),
}  # fmt: skip

WORDS = """
the quick brown fox jumps over lazy dog's back; they're I'll don't We'VE IT'S hello world internationalisation
naïve café Zürich Ångström résumé Straße ŒUVRE fiancée el niño está señor piñata coração não déjà-vu œuf ﬁne ﬂow
привет мир как дела сегодня Москва Ёлка українська мова њега здраво ΑΒΓ αβγ γεια σου Κόσμε ὦ ἄνθρωπε
שלום עולם בְּרֵאשִׁית مرحبا بالعالم السَّلَامُ عَلَيْكُمْ فارسی‌نویسی नमस्ते दुनिया क्षत्रिय हिन्दी বাংলা ভাষা தமிழ் மொழி తెలుగు ಕನ್ನಡ മലയാളം
สวัสดีชาวโลก ภาษาไทยไม่มีช่องว่าง ລາວ မြန်မာ ខ្មែរ བོད་སྐད ქართული հայերեն አማርኛ ᏣᎳᎩ ᐃᓄᒃᑎᑐᑦ ᚠᚢᚦ 𐌰𐌱𐌲 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐐷𐑉 ǅ ǈ ʰʷ ª º
你好世界 今天天气很好 我们的模型训练 中文分词没有空格 繁體中文測試 こんにちは 世界 カタカナ ｶﾀｶﾅ ひらがな 漢字かな交じり文 안녕하세요 세계 한국어 ᄒᆞᆫ글
int main(){return 0;} for(i=0;i<n;++i) std::vector<int>x; def f(x): lambda y: y**2 #include <stdio.h> a_b_c camelCase HTTPServer XMLHttpRequest x->y !== === && || \\n \\t
3.14159 1,000,000 2024-01-31 0x1F 1e-10 ٣٤٥ ४५६ ⅷ ½ ¾ ² ³ ¹ ① 10² １２３ ㊿ 𝟘𝟙 12345678 99 7
""".split()
EMOJI = ["😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "🇺🇸🇫🇷", "❤️", "1️⃣", "🧑🏿‍🚀", "☺", "✈️"]
MARKS = ["e\u0301", "a\u0308\u0323", "o\u0302\u0301", "\u0301", "\u0323\u0307", "n\u0303", "\u1100\u1161\u11a8", "\uac00\u11a8",
         "\u212b", "\u2126", "\ufb2c", "\u0958", "s\u0323\u0307", "q\u0307\u0323", "\u0344", "\u05d0\u05b7\u05bc", "A\u030a",
         "\u0e33\u0e48", "\U0001d15e", "\u1e0b\u0323", "\u0915\u093c", "\uf900", "\u09c7\u09be", "\u0301\u0301\u0327"]  # fmt: skip
BLANKS = [" ", "  ", "   ", "\n", "\r\n", "\n\n", "\t", " \n", "\n ", "\u00a0", "\u3000", "\u2003", "\u200b", "\u2028", "\x85", "\x0b", "\x0c",
          "\u1680", "\u180e", "\x1c", "\x1f", "\u202f", "\ufeff", "\u2060", " \t ", "\r", " " * 9, "\n" * 5, "\t" * 4]  # fmt: skip
ODD_CHARACTERS = ["\ufffd", "\ufffe", "\U0010ffff", "Ã©", "â€™", "\x00", "\x01", "\x7f", "\x80", "\x9f", "\u200d", "\u202e", "\u2581",
                  "\u2581\u2581", "\u0120", "\u010a", "\ue000", "\u00ad", "<0x0A>", "<0xE4>", "’s", "'ſ", "'S", "'LL", "'Re ", "…", "“", "”", "—",
                  "ß", "ẞ", "İ", "ı", "ǆ", "<!dummy-prefix!>", "\U00016ac0", "\U0001e6c0", "\U00031350", "\u0897", "\U00010d4a", "\ua7cb", "\u1c89",
                  "/", "//\n", "\\", "`", "©", "№", "€"]  # fmt: skip


def make_texts(count, tokens, seed):
    """Short texts of everything; `tokens` are the family's added tokens."""
    rng = random.Random(seed)
    spellings = [t["content"] for t in tokens]
    spellings += [s[:-1] for s in spellings if len(s) > 2] + [s.upper() for s in spellings]

    def fragment():
        kind = rng.randrange(20)
        if kind < 7:
            return rng.choice(WORDS)
        if kind < 9:
            return rng.choice(BLANKS)
        if kind == 9:
            return rng.choice(EMOJI)
        if kind == 10:
            return rng.choice(MARKS)
        if kind == 11:
            return rng.choice(ODD_CHARACTERS)
        if kind < 15:
            return rng.choice(BLANKS[:9] + [""] * 9) + rng.choice(spellings) + rng.choice(BLANKS[:9] + [""] * 9)
        if kind == 15:
            return str(rng.randrange(10 ** rng.randrange(1, 9)))
        if kind == 16:  # any character
            limit = rng.choice([0x80, 0x250, 0x800, 0x3000, 0x10000, 0x20000, 0x110000])
            return "".join(chr(c) for c in (rng.randrange(limit) for _ in range(rng.randrange(1, 4))) if not 0xD800 <= c < 0xE000)
        if kind == 17:
            return "".join(rng.choice("abcABCzÉéßДд文かǅʰ\u0301'9 \n.,!?<|>") for _ in range(rng.randrange(1, 12)))
        if kind == 18:
            return rng.choice(WORDS).upper() if rng.random() < 0.5 else rng.choice(WORDS).title()
        return rng.choice("!?.,;:-_=+*/()[]{}\"'<>|@#$%^&~")

    texts = ["", " ", "  ", "\n", "a", "\u0301", *WORDS, *EMOJI, *MARKS, *BLANKS, *ODD_CHARACTERS, *spellings]
    texts += [chr(c) for c in range(0x500)]
    texts += ["ab" * 2000, " " * 3000, "文字" * 700, "-=" * 900, "e\u0301" * 500, "\n \n" * 300, "aB" * 999, "9" * 999, "\u0301\u0327" * 300]
    while len(texts) < count:
        joint = rng.choice(["", " ", "", " ", ""])
        texts.append(joint.join(fragment() for _ in range(rng.randrange(1, 9))))
    return texts[:count]


@functools.cache
def corpus():
    rng = random.Random(5)
    lines = []
    for _ in range(1500):
        line = " ".join(rng.choice(WORDS) for _ in range(12))
        lines.append(line + rng.choice(BLANKS) + rng.choice(EMOJI) + rng.choice(MARKS) + "    indented\n\n\tline " + str(rng.randrange(10**6)))
    return lines


@functools.cache
def trained(is_bytes, first, pieces):
    """The file of a tokenizer that has these pieces before those that are trained."""
    tokenizer = Tokenizer(models.BPE())
    if is_bytes:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(R1), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    else:
        tokenizer.normalizer = normalizers.Replace(" ", MARK)
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    alphabet = pre_tokenizers.ByteLevel.alphabet() if is_bytes else []
    trainer = trainers.BpeTrainer(
        vocab_size=pieces, special_tokens=list(first), initial_alphabet=alphabet, limit_alphabet=400, show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer.to_str()


def make_file(settings, path, pieces=1600):
    """Writes a family's tokenizer.json."""
    is_bytes = settings.get("bytes", True)
    tokens = settings["added"]
    pre = settings.get("pre")
    if "regex" in settings:
        pre = sequence("pretokenizers", split(settings["regex"]), byte_level())
    if is_bytes:
        first = [t["content"] for t in tokens] if settings.get("in_model") else []
    else:
        first = ["<unk>"] if tokens[0]["content"] == "<unk>" else [t["content"] for t in tokens[:4]]
        fallback = settings.get("fallback", True)
        missing = {0xE6, 0xD0, 0xCC} if fallback == "some" else set()
        first += [f"<0x{b:02X}>" for b in range(256) if fallback and b not in missing]
    file = json.loads(trained(is_bytes, tuple(first), pieces))
    model = file["model"]
    if settings.get("ignore_merges"):  # pieces that no merges give
        for piece in ("Ġsupercalifragilistic", "zzzqqq", "<|eot", "ĠÐ¿ÑĢÐ¸Ð²ÐµÑĤÐ¿"):
            model["vocab"][piece] = len(model["vocab"])
    if not is_bytes:
        model.update(byte_fallback=bool(settings.get("fallback", True)), fuse_unk=settings.get("fuse", True), unk_token="<unk>")
    model["ignore_merges"] = settings.get("ignore_merges", False)
    next_id = len(model["vocab"])
    listed = []
    for token in tokens:
        id = model["vocab"].get(token["content"])
        if id is None:
            id, next_id = next_id, next_id + 1
        listed.append({"id": id, **token})
    file.update(
        added_tokens=sorted(listed, key=lambda t: t["id"]) if settings.get("in_model") else listed,
        normalizer=settings.get("normalizer"),
        pre_tokenizer=pre,
        decoder=settings.get("decoder", byte_level(True)),
        post_processor=settings.get("post"),
    )
    path.write_text(json.dumps(file, ensure_ascii=False))
    return file
