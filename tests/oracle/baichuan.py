"""The four Baichuan models in plain torch, from their description alone: nothing of Rankfold or transformers is used.

W_pack [3h, h] holds the rows of q, k and v; SwiGLU; RMSNorm; an untied head. Modules are named as in the published
weights, so PEFT's keys come out as they would on the real model. Two keys of config.json tell the models apart:

    position_embedding_type   "rope" (or no key): base 10000, on halves. "alibi": scores grow by slope * (j - i).
    norm_head                 true: each row of lm_head counts divided by its L2 norm, in training too.
"""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x):
        wide = x if x.dtype == torch.float64 else x.float()
        return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype)


def rotate(x, cos, sin):
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def rope(q, k, base=10000.0):
    length, size = q.shape[-2:]
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    inverse = base ** (-torch.arange(0, size, 2, dtype=wide) / size)
    angles = torch.outer(torch.arange(length, dtype=wide), inverse)
    angles = torch.cat((angles, angles), dim=-1)
    cos, sin = angles.cos().to(q.dtype), angles.sin().to(q.dtype)
    return rotate(q, cos, sin), rotate(k, cos, sin)


def attend(q, k, v, bias=None):
    """Causal attention of [batch, heads, length, size] -> [batch, length, heads * size]; bias is added to the scores."""
    length = q.shape[-2]
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if bias is not None:
        scores = scores + bias.to(q.dtype)
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    future = torch.ones(length, length, dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, float("-inf")).to(wide).softmax(-1).to(q.dtype)
    return (weights @ v).transpose(1, 2).flatten(2)


class PlainModel(nn.Module):
    """What PEFT and the tests ask of a model: a folder there and back. `shape` is its config; SAYS goes with it."""

    SAYS = {}

    def __init__(self, config):
        super().__init__()
        self.shape = config

    def prepare_inputs_for_generation(self, *args, **kwargs):
        """Asked for by PEFT's causal model; not used."""
        raise NotImplementedError

    def save_pretrained(self, folder):
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {k: v.contiguous() for k, v in self.state_dict().items()}
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        config = {"architectures": [type(self).__name__], **vars(self.shape), **self.SAYS}
        config |= {"hidden_act": "silu", "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2}
        config["torch_dtype"] = str(self.model.norm.weight.dtype).removeprefix("torch.")
        (folder / "config.json").write_text(json.dumps(config, indent=2))

    @classmethod
    def from_pretrained(cls, folder, dtype=torch.float32):
        model = cls(SimpleNamespace(**json.loads((Path(folder) / "config.json").read_text())))
        model.load_state_dict(load_file(Path(folder) / "model.safetensors"))
        return model.to(dtype)


def alibi_slopes(heads):
    """n heads: 2^(-8 i / n) for a power of two; else the series of the power below n, then odd steps of the next one."""
    below = 2 ** math.floor(math.log2(heads))
    series = [2 ** (-8 * i / below) for i in range(1, below + 1)]
    between = [2 ** (-8 * i / (2 * below)) for i in range(1, 2 * below, 2)]
    return torch.tensor(series + between[: heads - below], dtype=torch.float64)


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        hidden = config.hidden_size
        self.heads = config.num_attention_heads
        self.size = hidden // self.heads
        alibi = getattr(config, "position_embedding_type", "rope") == "alibi"
        self.slopes = alibi_slopes(self.heads) if alibi else None
        self.W_pack = nn.Linear(hidden, 3 * hidden, bias=False)
        self.o_proj = nn.Linear(hidden, hidden, bias=False)

    def forward(self, x):
        batch, length, hidden = x.shape
        q, k, v = (
            part.view(batch, length, self.heads, self.size).transpose(1, 2) for part in self.W_pack(x).split(hidden, dim=-1)
        )
        if self.slopes is None:
            return self.o_proj(attend(*rope(q, k), v))
        place = torch.arange(length)
        return self.o_proj(attend(q, k, v, self.slopes[:, None, None] * (place - place[:, None])))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class DecoderLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x):
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, ids):
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class BaiChuanForCausalLM(PlainModel):
    SAYS = {"model_type": "baichuan", "pad_token_id": 0}

    def __init__(self, config):
        super().__init__(config)
        self.model = Model(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.norm_head = getattr(config, "norm_head", False)

    def head(self, x):
        if not self.norm_head:
            return self.lm_head(x)
        weight = self.lm_head.weight
        return F.linear(x, (weight / weight.norm(dim=-1, keepdim=True)).to(x.dtype))

    def forward(self, input_ids):
        return SimpleNamespace(logits=self.head(self.model(input_ids)))
