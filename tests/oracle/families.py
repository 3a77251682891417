"""Model families beyond plain LLaMA and Baichuan-7B, each as a small random model.

A family lists what makes it special, with functions that take it from a loaded model: a test shows that it matters.
Windows are shorter than the rows of these tests, and so are the lengths from which a rope stretches.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import torch
import transformers
from torch import nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

import baichuan
import internlm2
import models
from models import VOCAB, randomize, transformers_4_spelling

LONGEST = 40  # tokens of a row
WINDOW = 7


@dataclass(frozen=True)
class Family:
    make: Callable  # the random model
    special: dict  # what it has, and a function that takes it from a loaded model


# What can be taken from a model -------------------------------------------------------------------------------------


def window(size):
    def change(model):
        model.config.sliding_window = size

    return change


def layer_types(kind):
    def change(model):
        model.config.layer_types = [kind] * model.config.num_hidden_layers

    return change


def rope(kind, **arguments):
    """One table of the kind for rows of every length."""

    def change(model):
        rotary = model.model.rotary_emb
        compute = ROPE_INIT_FUNCTIONS.get(kind, rotary.compute_default_rope_parameters)
        rotary.original_inv_freq, rotary.attention_scaling = compute(rotary.config, **arguments)
        rotary.rope_type = "default"

    return change


def attention_factor(model):
    model.model.rotary_emb.attention_scaling = 1.0


def biases(*layers):
    def change(model):
        for name, p in model.named_parameters():
            if name.endswith(".bias") and name.split(".")[-2] in layers:
                p.data.zero_()

    return change


def modules(*names):
    """These modules of each layer pass their input on."""

    def change(model):
        for layer in model.model.layers:
            for name in names:
                layer.set_submodule(name, nn.Identity())

    return change


def attribute(name, value, module=""):
    """Sets an attribute of the model or of a module of each layer."""

    def change(model):
        for place in [layer.get_submodule(module) for layer in model.model.layers] if module else [model]:
            setattr(place, name, value)

    return change


def power_of_two_slopes(model):
    """The series of a power of two, though the number of heads is none."""
    for layer in model.model.layers:
        heads = layer.self_attn.heads
        layer.self_attn.slopes = 2 ** (-8 * torch.arange(1, heads + 1, dtype=torch.float64) / heads)


def head_cap(model):
    model.config.final_logit_softcapping = None


def local_theta(model):
    """Layers with a window rotate as the others do."""
    model.model.rotary_emb.sliding_attention_inv_freq = model.model.rotary_emb.full_attention_inv_freq


def embedding_scale(model):
    model.model.embed_tokens.embed_scale.fill_(1.0)


# Random models ------------------------------------------------------------------------------------------------------

SHAPE = {"vocab_size": VOCAB, "hidden_size": 64, "intermediate_size": 112, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
         "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None, "tie_word_embeddings": False}  # fmt: skip


def hugging_face(name, seed, config=None, **changes):
    """A model of transformers' class NAMEForCausalLM."""
    config = getattr(transformers, config or f"{name}Config")(**(SHAPE | changes))
    return randomize(getattr(transformers, f"{name}ForCausalLM")(config), seed, values=0.2)


def llama(seed, **changes):
    return hugging_face("Llama", seed, **changes)


def mistral(seed, **changes):
    return hugging_face("Mistral", seed, **changes)


def qwen2(seed, **changes):
    return hugging_face("Qwen2", seed, **changes)


def qwen3(seed, **changes):
    return hugging_face("Qwen3", seed, **({"head_dim": 24} | changes))


def baichuan_model(seed, **changes):
    config = {"vocab_size": VOCAB, "hidden_size": 48, "intermediate_size": 112, "num_hidden_layers": 2,
              "num_attention_heads": 4, "rms_norm_eps": 1e-6, "architectures": ["BaichuanForCausalLM"]}  # fmt: skip
    model = randomize(baichuan.BaiChuanForCausalLM(SimpleNamespace(**(config | changes))), seed, values=0.2)
    if model.norm_head:  # rows of uneven length
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            model.lm_head.weight.mul_(torch.exp(0.5 * torch.randn(VOCAB, 1, generator=generator)))
    return model


def internlm2_model(seed, **changes):
    config = SHAPE | {"bias": True, "rope_theta": 10000.0, "max_position_embeddings": 128, "num_key_value_heads": 2} | changes
    return randomize(internlm2.InternLM2ForCausalLM(SimpleNamespace(**config)), seed, values=0.2)


def rows_in_groups(model):
    """wqkv read as q, k, v one after the other."""
    for layer in model.model.layers:
        attention = layer.attention
        size, shared, group = attention.size, attention.shared, attention.heads // attention.shared
        order = torch.arange(attention.wqkv.weight.shape[0]).view(-1, size)
        q, k, v = order.split([attention.heads, shared, shared])
        grouped = torch.cat([torch.cat([q[i * group : (i + 1) * group], k[i : i + 1], v[i : i + 1]]) for i in range(shared)])
        attention.wqkv.weight.data = attention.wqkv.weight.data[grouped.flatten()]


LLAMA3 = {"rope_type": "llama3", "rope_theta": 1000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 50.0, "factor": 4.0, "original_max_position_embeddings": 16,
        "beta_fast": 2.0, "beta_slow": 0.25}  # fmt: skip
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 3.0}
LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 0.75,
            "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5], "long_factor": [1.5, 2.0, 2.5, 3.0, 3.5, 4.0]}  # fmt: skip
WINDOWS = {"use_sliding_window": True, "sliding_window": WINDOW, "num_hidden_layers": 3}
ALTERNATING = ["sliding_attention", "full_attention", "sliding_attention"]

WINDOW_MATTERS = {"window": layer_types("full_attention"), "its last token": window(WINDOW - 1),
                  "layers without": layer_types("sliding_attention")}  # fmt: skip
QKV_BIAS = {f"{part} bias": biases(f"{part}_proj") for part in "qkv"}
QK_NORM = {"q norm": modules("self_attn.q_norm"), "k norm": modules("self_attn.k_norm")}
NORM_HEAD = {"normalised head": attribute("norm_head", False)}
ALIBI = {"slopes": attribute("slopes", torch.zeros(1), "self_attn"),
         "no rope": attribute("slopes", None, "self_attn")}  # fmt: skip
GEMMA = {"hidden_size": 48, "head_dim": 20, "tie_word_embeddings": True, "pad_token_id": 0}
GEMMA_WINDOWS = GEMMA | {"query_pre_attn_scalar": 6, "sliding_window": WINDOW, "layer_types": ALTERNATING,
                         "num_hidden_layers": 3}  # fmt: skip
GEMMA_MATTERS = {"GELU": attribute("act_fn", nn.SiLU(), "mlp"), "embedding scale": embedding_scale}

# The seeds are such that everything special changes the loss by 0.2 % or more.
FAMILIES = {
    "baichuan2_7b": Family(
        lambda: baichuan_model(118, norm_head=True, position_embedding_type="rope", max_position_embeddings=128,
                               model_max_length=128),
        NORM_HEAD),
    "baichuan_13b": Family(
        lambda: baichuan_model(121, norm_head=False, position_embedding_type="alibi", model_max_length=128,
                               num_attention_heads=6),
        ALIBI | {"slopes between": power_of_two_slopes}),
    "baichuan2_13b": Family(
        lambda: baichuan_model(105, norm_head=True, position_embedding_type="alibi", model_max_length=128),
        ALIBI | NORM_HEAD),
    "llama3": Family(lambda: llama(104, rope_parameters=LLAMA3), {"rope": rope("default")}),
    "yarn": Family(
        lambda: llama(111, rope_parameters=YARN, max_position_embeddings=64),
        {"rope": rope("default"), "attention factor": attention_factor}),
    "dynamic": Family(
        lambda: llama(119, rope_parameters=DYNAMIC, max_position_embeddings=16),
        {"rope": rope("default"), "each row's own length": rope("dynamic", seq_len=LONGEST)}),
    "llama_bias": Family(
        lambda: llama(109, attention_bias=True, mlp_bias=True),
        QKV_BIAS | {"o bias": biases("o_proj"), "gate bias": biases("gate_proj"), "up bias": biases("up_proj"),
                    "down bias": biases("down_proj")}),
    "mistral": Family(
        lambda: mistral(105, hidden_size=48, head_dim=20, sliding_window=WINDOW),
        {"window": window(None), "its last token": window(WINDOW - 1)}),
    "qwen2": Family(lambda: qwen2(111), QKV_BIAS),
    "qwen2_tied": Family(lambda: qwen2(117, tie_word_embeddings=True, hidden_size=48), QKV_BIAS),
    "qwen2_windows": Family(lambda: qwen2(117, max_window_layers=1, **WINDOWS), QKV_BIAS | WINDOW_MATTERS),
    "qwen3": Family(lambda: qwen3(115), QK_NORM),
    "qwen3_tied": Family(lambda: qwen3(119, tie_word_embeddings=True, hidden_size=48, num_key_value_heads=1), QK_NORM),
    "qwen3_windows": Family(lambda: qwen3(118, layer_types=ALTERNATING, **WINDOWS), QK_NORM | WINDOW_MATTERS),
    "phi3": Family(
        lambda: hugging_face("Phi3", 111, rope_parameters=LONGROPE, max_position_embeddings=64,
                             original_max_position_embeddings=16, sliding_window=19),
        {"rope": rope("default"), "attention factor": attention_factor, "long rows": rope("longrope", seq_len=1),
         "short rows": rope("longrope", seq_len=17), "window": window(None)}),
    "internlm2": Family(
        lambda: internlm2_model(107, rope_theta=300.0),
        {"rows in groups": rows_in_groups, "qkv bias": biases("wqkv"), "o bias": biases("wo")}),
    "gemma": Family(lambda: hugging_face("Gemma", 103, num_key_value_heads=1, **GEMMA), GEMMA_MATTERS),
    "gemma2": Family(
        lambda: hugging_face("Gemma2", 107, attn_logit_softcapping=5.0, final_logit_softcapping=3.0, **GEMMA_WINDOWS),
        GEMMA_MATTERS | WINDOW_MATTERS | {"head cap": head_cap,
                          "attention cap": attribute("attn_logit_softcapping", None, "self_attn")}),
    "gemma3": Family(
        lambda: hugging_face("Gemma3", 205, "Gemma3TextConfig", **GEMMA_WINDOWS),
        GEMMA_MATTERS | WINDOW_MATTERS | QK_NORM | {"local theta": local_theta}),
}  # fmt: skip


# Variants -----------------------------------------------------------------------------------------------------------


def config_of(folder, change):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config, indent=2))


def says(**keys):
    return lambda folder: config_of(folder, lambda config: config.update(keys))


def rope_says(**keys):
    return lambda folder: config_of(folder, lambda config: config["rope_parameters"].update(keys))


def default_betas(folder):
    config_of(folder, lambda config: [config["rope_parameters"].pop(f"beta_{end}") for end in ("fast", "slow")])


def windows_switched_off(folder):
    """As the hub's Qwen2: a window in config.json that use_sliding_window false makes void."""
    transformers_4_spelling(folder)
    says(sliding_window=WINDOW, max_window_layers=1)(folder)


def old_gemma3(folder):
    """As the hub's Gemma 3."""

    def change(config):
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope["full_attention"]["rope_theta"]
        config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
        config["sliding_window_pattern"] = 2
        del config["layer_types"]

    config_of(folder, change)


def full_layers_stretch(folder):
    """As Gemma 3 of 4B and more."""
    stretch = {"rope_type": "linear", "factor": 8.0}
    config_of(folder, lambda config: config["rope_parameters"]["full_attention"].update(stretch))


def gemma2_of_defaults(folder):
    """Keys of Gemma 2 whose absence means something."""
    keys = ["query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping", "layer_types",
            "tie_word_embeddings", "hidden_activation"]  # fmt: skip
    config_of(folder, lambda config: [config.pop(key, None) for key in keys])


# Other words in a family's config.json: the family, how to change the folder, whether the model stays the same.
VARIANTS = {
    "internlm2, dynamic": ("internlm2", says(rope_scaling={"type": "dynamic", "factor": 3.0}, max_position_embeddings=16), False),
    "old llama3": ("llama3", lambda folder: transformers_4_spelling(folder, "rope_type"), True),
    "old yarn": ("yarn", transformers_4_spelling, True),
    "old dynamic": ("dynamic", transformers_4_spelling, True),
    "old mistral": ("mistral", transformers_4_spelling, True),
    "old qwen2_windows": ("qwen2_windows", transformers_4_spelling, True),
    "old qwen2, windows switched off": ("qwen2", windows_switched_off, True),
    "old gemma2": ("gemma2", transformers_4_spelling, True),
    "old gemma3": ("gemma3", old_gemma3, True),
    "gemma2 without caps": ("gemma2", says(attn_logit_softcapping=None, final_logit_softcapping=None), False),
    "gemma2, defaults": ("gemma2", gemma2_of_defaults, False),
    "gemma3, capped logits": ("gemma3", says(final_logit_softcapping=3.0), False),
    "gemma3, linear": ("gemma3", full_layers_stretch, False),
    "mistral without a window": ("mistral", says(sliding_window=None), False),
    "layer_types before max_window_layers": ("qwen2_windows", says(max_window_layers=0), True),
    "baichuan, rope and a normalised head": ("baichuan2_13b", says(position_embedding_type="rope"), False),
    "yarn, default betas": ("yarn", default_betas, False),
    "yarn, mscale": ("yarn", rope_says(mscale=1.0, mscale_all_dim=0.4), False),
    "yarn, one mscale": ("yarn", rope_says(mscale=0.7), True),
    "yarn, attention factor": ("yarn", rope_says(attention_factor=1.4), False),
    "yarn, not truncated": ("yarn", rope_says(truncate=False), False),
}


class Zoo(dict):
    """Model folders by name: those of models.build, and each family once it is asked for; NAME_bf16 is in bfloat16."""

    def __init__(self, root):
        super().__init__(models.build(root))
        self.root = root

    def __missing__(self, name):
        model = FAMILIES[name.removesuffix("_bf16")].make()
        dtype = torch.bfloat16 if name.endswith("_bf16") else torch.float32
        self[name] = models.save(self.root, name, model, dtype)
        return self[name]
