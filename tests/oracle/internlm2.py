"""InternLM2 in plain torch, from its description alone: nothing of Rankfold or transformers is used.

attention.wqkv holds its rows in groups: for each key/value head the query heads that it serves, then k, then v. RoPE on
halves; where rope_scaling says "dynamic", the base grows with a row's own length. Modules are named as in the published
weights.
"""

from types import SimpleNamespace

from baichuan import PlainModel, RMSNorm, attend, rope
from torch import nn
from torch.nn import functional as F


def rope_base(config, length, size):
    scaling = getattr(config, "rope_scaling", None) or {}
    if scaling.get("type") != "dynamic" or length <= config.max_position_embeddings:
        return config.rope_theta
    factor = scaling["factor"]
    stretch = factor * length / config.max_position_embeddings - (factor - 1)
    return config.rope_theta * stretch ** (size / (size - 2))


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
        q, k = rope(q, k, rope_base(self.config, length, self.size))
        return self.wo(attend(q, k, v))


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


class InternLM2ForCausalLM(PlainModel):
    SAYS = {"model_type": "internlm2", "pad_token_id": 2}

    def __init__(self, config):
        super().__init__(config)
        self.model = Model(config)
        self.output = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, input_ids):
        return SimpleNamespace(logits=self.output(self.model(input_ids)))
