"""InternLM2 in plain torch, from its description alone: nothing of Rankfold or transformers is used.

attention.wqkv holds its rows in groups: for each key/value head the query heads that it serves, then k, then v. RoPE on
halves; where rope_scaling says "dynamic", the base grows with a row's own length. Modules are named as in the published
weights.
"""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import torch
from baichuan import RMSNorm, rotate
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F


def rope_angles(config, length, size, wide):
    base = config.rope_theta
    scaling = getattr(config, "rope_scaling", None) or {}
    if scaling.get("type") == "dynamic" and length > config.max_position_embeddings:
        factor = scaling["factor"]
        stretch = factor * length / config.max_position_embeddings - (factor - 1)
        base = base * stretch ** (size / (size - 2))
    inverse = base ** (-torch.arange(0, size, 2, dtype=wide) / size)
    angles = torch.outer(torch.arange(length, dtype=wide), inverse)
    return torch.cat((angles, angles), dim=-1)


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        self.heads, self.shared = config.num_attention_heads, config.num_key_value_heads
        self.size = config.hidden_size // self.heads
        width = (self.heads + 2 * self.shared) * self.size
        self.wqkv = nn.Linear(config.hidden_size, width, bias=config.bias)
        self.wo = nn.Linear(self.heads * self.size, config.hidden_size, bias=config.bias)

    def forward(self, x):
        batch, length, _ = x.shape
        group = self.heads // self.shared
        groups = self.wqkv(x).view(batch, length, self.shared, group + 2, self.size)
        q = groups[..., :group, :].reshape(batch, length, self.heads, self.size).transpose(1, 2)
        k, v = (groups[..., group + i, :].repeat_interleave(group, 2).transpose(1, 2) for i in range(2))
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        angles = rope_angles(self.config, length, self.size, wide)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        scores = q @ k.transpose(-1, -2) / math.sqrt(self.size)
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(future, float("-inf")).to(wide).softmax(-1).to(x.dtype)
        return self.wo((weights @ v).transpose(1, 2).reshape(batch, length, -1))


class FeedForward(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.w1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.w3 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.w2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x):
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class DecoderLayer(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.attention = Attention(config)
        self.feed_forward = FeedForward(config)
        self.attention_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.ffn_norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x):
        x = x + self.attention(self.attention_norm(x))
        return x + self.feed_forward(self.ffn_norm(x))


class Model(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, ids):
        x = self.tok_embeddings(ids)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class InternLM2ForCausalLM(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.shape = config
        self.model = Model(config)
        self.output = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, input_ids):
        return SimpleNamespace(logits=self.output(self.model(input_ids)))

    def prepare_inputs_for_generation(self, *args, **kwargs):
        """Asked for by PEFT's causal model; not used."""
        raise NotImplementedError

    def save_pretrained(self, folder):
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in self.state_dict().items()}, folder / "model.safetensors", {"format": "pt"})
        config = dict(vars(self.shape))
        config |= {"architectures": ["InternLM2ForCausalLM"], "model_type": "internlm2", "hidden_act": "silu"}
        config |= {"tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
        config["torch_dtype"] = str(self.output.weight.dtype).removeprefix("torch.")
        (folder / "config.json").write_text(json.dumps(config, indent=2))

    @classmethod
    def from_pretrained(cls, folder, dtype=torch.float32):
        model = cls(SimpleNamespace(**json.loads((Path(folder) / "config.json").read_text())))
        model.load_state_dict(load_file(Path(folder) / "model.safetensors"))
        return model.to(dtype)
