"""Small random models as folders: odd sizes, useful scales, both spellings of config.json; rows and texts to run on them."""

import io
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import sentencepiece
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging as transformers_logging

import baichuan
import internlm2

transformers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()

VOCAB = 389
PLAIN_TORCH = {"baichuan": baichuan.BaiChuanForCausalLM, "internlm2": internlm2.InternLM2ForCausalLM}  # by model_type


@dataclass(frozen=True)
class ModelFolder:
    name: str
    folder: Path
    is_baichuan: bool = False

    def load(self, dtype=torch.float32):
        """The oracle's model in training mode (nothing in the base drops out)."""
        return load(self.folder, dtype).train()

    @property
    def linear(self):
        """A regular expression for every linear layer but the head."""
        return r"model\.layers\.\d+\.(self_attn|mlp|attention|feed_forward)\.(\w+_(proj|pack)|w\w+)"

    @property
    def linear_and_head(self):
        """The same with the head, unless it is the embedding or has normalised rows, which PEFT does not adapt."""
        config = json.loads((self.folder / "config.json").read_text())
        return self.linear if config["tie_word_embeddings"] or config.get("norm_head") else rf"{self.linear}|lm_head|output"


def load(folder, dtype=torch.float32):
    model_type = json.loads((Path(folder) / "config.json").read_text())["model_type"]
    if model_type in PLAIN_TORCH:
        return PLAIN_TORCH[model_type].from_pretrained(folder, dtype)
    stored = torch.float32 if dtype == torch.float64 else dtype
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=stored, attn_implementation="eager")
    return model.double() if dtype == torch.float64 else model  # .to(bfloat16) would round the frequencies of rope, too


@torch.no_grad()
def randomize(model, seed, values=0.09):
    """Norms near 1 but not 1; logits of scale 1 to 10; attention far from uniform. values: std of v_proj and o_proj."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        if "norm" in name:
            p.copy_(p + 0.1 * noise)  # new norms are ones, or zeros where the model adds 1 to them
        elif name.endswith(".bias"):
            p.copy_(0.5 * noise)
        elif "embed_tokens" in name or "tok_embeddings" in name:
            p.copy_(0.3 * noise)
        elif "lm_head" in name or "q_proj" in name or "k_proj" in name or "W_pack" in name or "qkv" in name:
            p.copy_(0.2 * noise)
        elif "v_proj" in name or "o_proj" in name or "output" in name:
            p.copy_(values * noise)
        else:
            p.copy_(0.09 * noise)
    return model


def llama(seed, **changes):
    config = {
        "vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 4, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "bos_token_id": 1, "eos_token_id": 2,
        "pad_token_id": None,
    }  # fmt: skip
    return randomize(LlamaForCausalLM(LlamaConfig(**(config | changes))), seed)


def baichuan_model(seed):
    config = {
        "vocab_size": VOCAB, "hidden_size": 48, "intermediate_size": 112, "num_hidden_layers": 3, "num_attention_heads": 4,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-6,
    }  # fmt: skip
    return randomize(baichuan.BaiChuanForCausalLM(SimpleNamespace(**config)), seed)


def transformers_4_spelling(folder, kind_key="type"):
    """config.json as transformers 4 wrote it."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["torch_dtype"] = config.pop("dtype")
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    kind = rope.pop("rope_type")
    config["rope_scaling"] = None if kind == "default" else {kind_key: kind, **rope}
    config.pop("layer_types", None)
    config["transformers_version"] = "4.31.0"
    path.write_text(json.dumps(config, indent=2))


def save(root, name, model, dtype=torch.float32, **how):
    """The model's folder without a tokenizer's files."""
    model.to(dtype).save_pretrained(root / name, **how)
    return ModelFolder(name, root / name, name.startswith("baichuan"))


def build(root):
    """Every model by its name."""
    gqa = {"num_key_value_heads": 2, "num_hidden_layers": 3}
    linear_rope = {"rope_parameters": {"rope_type": "linear", "factor": 2.5, "rope_theta": 50000.0}}
    zoo = {}

    def add(name, model, dtype=torch.float32, **how):
        zoo[name] = save(root, name, model, dtype, **how)
        return zoo[name].folder

    add("llama", llama(1, hidden_size=48))
    add("gqa", llama(2, **gqa))
    add("head_dim", llama(3, hidden_size=48, head_dim=20, num_key_value_heads=1))
    add("tied", llama(4, tie_word_embeddings=True))
    add("linear_rope", llama(5, **linear_rope))
    transformers_4_spelling(add("spelling_4", llama(6, **linear_rope, **gqa)))
    transformers_4_spelling(add("spelling_4_theta", llama(7, rope_parameters={"rope_type": "default", "rope_theta": 1e6})))
    add("sharded", llama(2, **gqa), max_shard_size="150KB")
    add("gqa_bf16", llama(2, **gqa), torch.bfloat16)
    add("sharded_bf16", llama(8), torch.bfloat16, max_shard_size="60KB")
    add("llama_f16", llama(1, hidden_size=48), torch.float16)
    add("baichuan", baichuan_model(9))
    add("baichuan_bf16", baichuan_model(9), torch.bfloat16)
    pickled = root / "pickled"
    shutil.copytree(zoo["gqa"].folder, pickled)
    (pickled / "model.safetensors").unlink()
    torch.save(zoo["gqa"].load().state_dict(), pickled / "pytorch_model.bin")
    zoo["pickled"] = ModelFolder("pickled", pickled)
    for name, model in zoo.items():
        add_tokenizer(model.folder, BAICHUAN_TOKENIZER if model.is_baichuan else LLAMA_TOKENIZER)
    return zoo


# Tokenizers ------------------------------------------------------------------------------------------------------------

CORPUS = """
Metformin lowers blood sugar by reducing the glucose that the liver makes. What does metformin do, and who should not take it?
Patients with high blood pressure should reduce salt, exercise and take their medicine every day. 12 345 mg, 3.5 mmol/L.
What are the symptoms of diabetes? Thirst, frequent urination, tiredness, blurred vision and slow healing of wounds.
二甲双胍可以降低血糖，主要减少肝脏产生的葡萄糖。糖尿病患者应当控制饮食，坚持运动，按时服药。高血压患者应当少吃盐。
感冒了怎么办？多喝水，多休息，发烧超过三十八度五可以服用退烧药。如果症状持续三天以上，应当去医院看医生。
The doctor asked the patient about the pain in the chest; the patient said that it began two days ago, at night.
""".strip().splitlines() * 3

# The usual settings of LLaMA, and Baichuan's habits: no space put in front, reserved pieces in the vocabulary.
LLAMA_TOKENIZER = {"add_dummy_prefix": True, "split_digits": True, "normalization_rule_name": "identity",
                   "remove_extra_whitespaces": False}  # fmt: skip
BAICHUAN_TOKENIZER = {"add_dummy_prefix": False, "normalization_rule_name": "nmt_nfkc", "remove_extra_whitespaces": False,
                      "control_symbols": ["<reserved_102>"], "user_defined_symbols": ["<ask>"]}  # fmt: skip


def add_tokenizer(folder, settings):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS), model_writer=model, vocab_size=VOCAB, model_type="bpe", byte_fallback=True,
        character_coverage=0.98, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, minloglevel=2, num_threads=1, **settings
    )  # fmt: skip
    (folder / "tokenizer.model").write_bytes(model.getvalue())


def tokenizer(folder):
    return sentencepiece.SentencePieceProcessor(model_file=str(Path(folder) / "tokenizer.model"))


NASTY_TEXTS = [
    "What does metformin do?", "", " ", "  two  spaces  ", "\ttab\nnewline\r\n", "trailing space ", "\n\n\n",
    "二甲双胍可以降低血糖", "糖尿病？高血压！感冒。", "龘靐齉 rare characters", "mixed 中英 text 12345 mg",
    "<s>", "</s>", "<unk>", "a<s>b</s>c", "<0x41>", "<reserved_102>", "<ask>", "say <ask>now", "▁", "▁▁a▁ b",
    "🙂", "👩‍👩‍👧‍👦 family", "e\u0301 combining", "ﬁ ligature ½ ①", "\u3000ideographic\u3000space", "\u00a0nbsp", "\u200bzero width",
    "\x01\x02\x1f control", "\x7f", "null \x00 inside", "ＦＵＬＬ　ＷＩＤＴＨ", "עברית العربية हिन्दी ไทย", "\ufeffbom", "\ufffd", "😀" * 20,
    "x" * 300, "1234567890" * 10, "ａ\u0300\u0301", "line\u2028separator", "{question}\n", "\\n \\t \"quoted\" 'single'",
]  # fmt: skip


# Rows ------------------------------------------------------------------------------------------------------------------


@dataclass
class Rows:
    """input_ids and labels in Hugging Face's convention, uneven; `row` and `step` count for dropout only."""

    ids: list
    labels: list
    row: list = field(default_factory=list)
    step: list = field(default_factory=list)

    def __len__(self):
        return len(self.ids)

    def select(self, indices):
        return Rows([self.ids[i] for i in indices], [self.labels[i] for i in indices])

    def label_count(self):
        return sum(label != -100 for row in self.labels for label in row[1:])

    def save(self, path):
        """For rankfold-probe."""
        tensors = {
            "ids": torch.tensor([i for row in self.ids for i in row], dtype=torch.int64),
            "labels": torch.tensor([i for row in self.labels for i in row], dtype=torch.int64),
            "lengths": torch.tensor([len(row) for row in self.ids], dtype=torch.int64),
        }
        if self.row:
            tensors |= {"row": torch.tensor(self.row), "step": torch.tensor(self.step)}
        save_file(tensors, path)
        return path

    def save_json_lines(self, path):
        """For the programs."""
        lines = (json.dumps({"input_ids": i, "labels": t}) for i, t in zip(self.ids, self.labels))
        path.write_text("\n".join(lines) + "\n")
        return path


def make_rows(count, seed, shortest=2, longest=26):
    """Every length from very short to long; prompts without labels, holes in the labels, one row with all of them."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda low, high: int(torch.randint(low, high, (1,), generator=generator))  # noqa: E731
    rows = Rows([], [])
    for i in range(count):
        length = draw(shortest, longest + 1)
        ids = torch.randint(3, VOCAB, (length,), generator=generator).tolist()
        labels = list(ids)
        if i % 4:
            prompt = draw(0, length - 1)
            labels[:prompt] = [-100] * prompt
            if length - prompt > 4:
                labels[draw(prompt + 1, length - 1)] = -100
        rows.ids.append(ids)
        rows.labels.append(labels)
    return rows
