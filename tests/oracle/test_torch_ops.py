"""torch.ops.rankfold against PEFT's own Linear, torch's attention and torch's cross entropy: results and gradients."""

import math
from types import SimpleNamespace

import pytest
import torch
from conftest import BIN
from peft import LoraConfig, get_peft_model
from reference import GivenMask, worst
from torch import nn
from torch.nn import functional as F

T, K, N = 37, 48, 64
EPS = 1e-6


@pytest.fixture(scope="module")
def ops():
    torch.ops.load_library(str(BIN.parent / "lib" / "librankfold.so"))
    return torch.ops.rankfold


def random(*shape, seed, scale=1.0):
    """Numbers that bfloat16 holds, in double: every dtype gets the same problem."""
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * scale).bfloat16().double()


def rms_norm(x, weight, eps):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * weight


class Tiny(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.W_pack = nn.Linear(weight.shape[1], weight.shape[0], bias=False, dtype=weight.dtype)
        self.W_pack.weight.data.copy_(weight)

    def forward(self, x):
        return self.W_pack(x)


def peft_linear(dtype, mask):
    """PEFT's Linear with r 16, alpha 32; fp32 leaves on a bfloat16 base, as PEFT has them; in double all is double."""
    model = get_peft_model(
        Tiny(random(N, K, seed=1, scale=K**-0.5).to(dtype)),
        LoraConfig(r=16, lora_alpha=32, lora_dropout=0.05 if mask is not None else 0.0, target_modules=["W_pack"]),
    )
    layer = model.base_model.model.W_pack
    with torch.no_grad():
        layer.lora_A["default"].weight.copy_(random(16, K, seed=2, scale=K**-0.5))
        layer.lora_B["default"].weight.copy_(random(N, 16, seed=3, scale=0.3))
    if mask is not None:
        layer.lora_dropout["default"] = GivenMask()
        layer.lora_dropout["default"].mask = mask.to(dtype)
    assert layer.scaling["default"] == 2
    return SimpleNamespace(forward=model, a=layer.lora_A["default"].weight, b=layer.lora_B["default"].weight,
                           weight=layer.base_layer.weight.detach())  # fmt: skip


def gradients(outputs, leaves):
    """Of the outputs weighed by fixed numbers, so that every element of them counts."""
    total = sum((y.double() * random(*y.shape, seed=90 + i)).sum() for i, y in enumerate(outputs))
    return torch.autograd.grad(total, leaves)


def bias(y, exact):
    """How far a common factor is from 1."""
    y, exact = y.double().flatten(), exact.double().flatten()
    return abs((y @ exact / (exact @ exact)).item() - 1)


def compare(check, ours, plain, exact, dtype, where):
    """style.md C4: at most twice the error of plain torch in that dtype against float64; floor 4 eps of the largest."""
    eps, kind = torch.finfo(dtype).eps, str(dtype).removeprefix("torch.")
    for name, e in exact.items():
        limit = max(2 * worst(plain[name], e), 4 * eps * e.abs().max().item())
        check(f"torch.ops {kind}, share of the limit", worst(ours[name], e) / limit, 1, f"{where}: {name}")
        limit = max(2 * bias(plain[name], e), 32 * eps / e.numel() ** 0.5)
        check(f"torch.ops {kind}, scale bias, share of the limit", bias(ours[name], e) / limit, 1, f"{where}: {name}")


DTYPES = [torch.float32, torch.bfloat16]
COUNTERS = {"seed": 123, "step": 5}
ROWS = torch.tensor([0] * 20 + [1] * (T - 20))
POSITIONS = torch.cat((torch.arange(20), torch.arange(T - 20)))


def mask_of(ops, dropout):
    if dropout == 0:
        return None
    mask = ops.dropout_mask(ROWS, POSITIONS, K, dropout, module=7, **COUNTERS)
    assert mask.shape == (T, K) and set(mask.unique().tolist()) == {0.0, mask.max().item()}
    return mask


@pytest.mark.parametrize("dropout", [0, 0.05])
@pytest.mark.parametrize("dtype", DTYPES)
def test_project_add(dtype, dropout, ops, check):
    mask = mask_of(ops, dropout)

    def run(dtype, by_us):
        theirs = peft_linear(dtype, mask)
        x = random(T, K, seed=4).to(dtype).requires_grad_()
        residual = random(T, N, seed=5).to(dtype).requires_grad_()
        if by_us:
            y = ops.project_add(x, residual, theirs.weight, [theirs.a], [theirs.b], [2.0], dropout, first_module=7,
                                rows=ROWS, positions=POSITIONS, **COUNTERS)  # fmt: skip
        else:
            y = residual + theirs.forward(x)
        assert y.dtype == dtype
        leaves = {"x": x, "residual": residual, "lora_A": theirs.a, "lora_B": theirs.b}
        return {"y": y.detach()} | dict(zip(leaves, gradients([y], list(leaves.values()))))

    compare(check, run(dtype, True), run(dtype, False), run(torch.float64, False), dtype, f"project_add, dropout {dropout}")


@pytest.mark.parametrize("dropout", [0, 0.05])
@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_project(dtype, dropout, ops, check):
    mask = mask_of(ops, dropout)

    def run(dtype, by_us):
        theirs = peft_linear(dtype, mask)
        h = random(T, K, seed=4).to(dtype).requires_grad_()
        gain = (1 + random(K, seed=6, scale=0.2)).to(dtype).requires_grad_()
        if by_us:
            y, through = ops.norm_project(h, gain, EPS, theirs.weight, [theirs.a], [theirs.b], [2.0], dropout,
                                          first_module=7, rows=ROWS, positions=POSITIONS, **COUNTERS)  # fmt: skip
        else:
            y, through = theirs.forward(rms_norm(h, gain, EPS)), h * 1
        leaves = {"h": h, "norm weight": gain, "lora_A": theirs.a, "lora_B": theirs.b}
        return {"y": y.detach()} | dict(zip(leaves, gradients([y, through], list(leaves.values()))))

    compare(check, run(dtype, True), run(dtype, False), run(torch.float64, False), dtype, f"norm_project, dropout {dropout}")


@pytest.mark.parametrize("dtype", DTYPES)
def test_swiglu_project_add(dtype, ops, check):
    """Two modules side by side, the second without an update (rank 0), and a weight that trains itself."""

    def run(dtype, by_us):
        gate_up = random(T, 2 * K, seed=4).to(dtype).requires_grad_()
        residual = random(T, N, seed=5).to(dtype)
        weight = random(N, K, seed=1, scale=K**-0.5).to(dtype).requires_grad_()
        leaf = torch.float64 if dtype == torch.float64 else torch.float32
        a = random(5, K, seed=2, scale=K**-0.5).to(leaf).requires_grad_()
        b = random(24, 5, seed=3, scale=0.3).to(leaf).requires_grad_()
        if by_us:
            none_a, none_b = torch.empty(0, K), torch.empty(N - 24, 0)
            y = ops.swiglu_project_add(gate_up, residual, weight, [a, none_a], [b, none_b], [1.5, 0.0])
        else:
            gate, up = gate_up.chunk(2, -1)
            x = F.silu(gate) * up
            update = F.linear(F.linear(x.to(leaf), a), b) * 1.5
            y = residual + F.linear(x, weight) + F.pad(update, (0, N - 24)).to(dtype)
        leaves = {"gate_up": gate_up, "weight": weight, "a": a, "b": b}
        return {"y": y.detach()} | dict(zip(leaves, gradients([y], list(leaves.values()))))

    compare(check, run(dtype, True), run(dtype, False), run(torch.float64, False), dtype, "swiglu_project_add")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("query", "key_value"), [(4, 4), (6, 2)])
def test_attend(query, key_value, dtype, ops, check):
    lengths, size = [7, 1, 29], 16
    offsets = [0, 7, 8, T]
    positions = torch.cat([torch.arange(length) for length in lengths])
    angles = torch.outer(torch.arange(29).float(), 100.0 ** (-torch.arange(0, size, 2).float() / size))
    cos, sin = angles.cos(), angles.sin()

    def rotate(x):
        c, s = (table[positions].to(x.dtype).unsqueeze(1) for table in (cos, sin))
        first, second = x.chunk(2, -1)
        return torch.cat((first * c - second * s, second * c + first * s), -1)

    def run(dtype, by_us):
        qkv = random(T, (query + 2 * key_value) * size, seed=8).to(dtype).requires_grad_()
        if by_us:
            y = ops.attend(qkv, cos, sin, positions, offsets, query, key_value)
        else:
            q, k, v = qkv.unflatten(1, (-1, size)).split([query, key_value, key_value], 1)
            q, k = rotate(q), rotate(k)
            parts = []
            for begin, end in zip(offsets, offsets[1:]):
                part = [x[begin:end].transpose(0, 1).unsqueeze(0) for x in (q, k, v)]
                found = F.scaled_dot_product_attention(*part, is_causal=True, enable_gqa=query != key_value)
                parts.append(found[0].transpose(0, 1).flatten(1))
            y = torch.cat(parts)
        return {"y": y.detach(), "qkv": gradients([y], [qkv])[0]}

    where = f"attend, {query} heads on {key_value}"
    compare(check, run(dtype, True), run(dtype, False), run(torch.float64, False), dtype, where)


@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_head_loss(dtype, ops, check):
    vocabulary, tokens = 101, 300  # more than one chunk
    labels = torch.randint(0, vocabulary, (tokens,), generator=torch.Generator().manual_seed(9))
    labels[::5] = -100

    def run(dtype, by_us):
        h = random(tokens, K, seed=4).to(dtype).requires_grad_()
        gain = (1 + random(K, seed=6, scale=0.2)).to(dtype).requires_grad_()
        head = random(vocabulary, K, seed=10, scale=0.3).to(dtype).requires_grad_()
        if by_us:
            loss = ops.norm_head_loss(h, gain, EPS, head, labels)
        else:
            logits = F.linear(rms_norm(h, gain, EPS), head)
            wide = logits if dtype == torch.float64 else logits.float()
            loss = F.cross_entropy(wide, labels, ignore_index=-100, reduction="sum")
        assert loss.shape == ()
        leaves = {"h": h, "norm weight": gain, "head": head}
        return {"loss": loss.detach()} | dict(zip(leaves, torch.autograd.grad(loss / 240, list(leaves.values()))))

    compare(check, run(dtype, True), run(dtype, False), run(torch.float64, False), dtype, "norm_head_loss")


@pytest.mark.parametrize("dropout", [0, 0.25])
def test_gradcheck(dropout, ops):
    """Every argument with a gradient; the frozen case is that of two modules of which one has no update."""
    h, gain, weight = random(5, 6, seed=1), 1 + random(6, seed=2, scale=0.2), random(7, 6, seed=3, scale=0.4)
    a, b = random(2, 6, seed=4, scale=0.4), random(4, 2, seed=5)
    none_a, none_b = torch.empty(0, 6, dtype=torch.float64), torch.empty(3, 0, dtype=torch.float64)

    def f(h, gain, weight, a, b):
        return ops.norm_project(h, gain, EPS, weight, [a, none_a], [b, none_b], [1.5, 0.0], dropout, seed=3)

    assert torch.autograd.gradcheck(f, [x.requires_grad_() for x in (h, gain, weight, a, b)])
    weight.requires_grad_(False)
    assert torch.autograd.gradcheck(f, (h, gain, weight, a, b))


def test_default_counters_are_those_of_one_sequence(ops):
    x, weight = random(T, K, seed=4).float(), torch.zeros(N, K)
    a, b = torch.eye(K), torch.eye(N, K)
    kept = ops.project_add(x, torch.zeros(T, N), weight, [a], [b], [1.0], 0.5, **COUNTERS)[:, :K]
    mask = ops.dropout_mask(torch.zeros(T, dtype=torch.int32), torch.arange(T), K, 0.5, **COUNTERS)
    assert torch.equal(kept, x * mask) and math.isclose(mask.mean(), 1, abs_tol=0.2)


def test_wrong_arguments_are_value_errors(ops):
    x, residual, weight = torch.randn(T, K), torch.randn(T, N), torch.randn(N, K)
    a, b = torch.randn(4, K), torch.randn(N, 4)
    update = ([a], [b], [1.0])
    wrong = [
        ("x must be a floating-point matrix", lambda: ops.project_add(x[None], residual, weight, *update)),
        ("weight must be float32|weight must be Float", lambda: ops.project_add(x, residual, weight.double(), *update)),
        ("weight must be a contiguous matrix", lambda: ops.project_add(x, residual, weight.t().contiguous().t(), *update)),
        ("expected 48 features", lambda: ops.project_add(x[:, 1:], residual, weight, [], [], [])),
        ("a, b and scale must be of one length", lambda: ops.project_add(x, residual, weight, [a], [b], [])),
        (r"expected a\[0\] \[r, 48\]", lambda: ops.project_add(x, residual, weight, [a[:, 1:].contiguous()], [b], [1.0])),
        ("rows of b must be those of weight", lambda: ops.project_add(x, residual, weight, [a], [b[1:]], [1.0])),
        (r"a\[0\] and b\[0\] must be Float", lambda: ops.project_add(x, residual, weight, [a.half()], [b.half()], [1.0])),
        ("residual must be", lambda: ops.project_add(x, residual[:1], weight, *update)),
        ("dropout must be in", lambda: ops.project_add(x, residual, weight, *update, 1.0)),
        ("modules lie in", lambda: ops.project_add(x, residual, weight, *update, 0.1, first_module=65536)),
        ("rows must be integers", lambda: ops.project_add(x, residual, weight, *update, 0.1, rows=torch.zeros(3))),
        ("norm_weight must be", lambda: ops.norm_project(x, torch.ones(K + 1), EPS, weight, *update)),
        ("as many gates as ups", lambda: ops.swiglu_project_add(x[:, 1:], residual, weight, *update)),
        ("label 64 is beyond", lambda: ops.norm_head_loss(x, torch.ones(K), EPS, weight, torch.full((T,), N))),
        ("rows of cos", lambda: ops.attend(x, torch.ones(3, 8), torch.ones(3, 8), torch.arange(T), [0, T], 1, 1)),
        ("offsets must rise", lambda: ops.attend(x, torch.ones(T, 8), torch.ones(T, 8), torch.arange(T), [0, 9, 9, T], 1, 1)),
        ("offsets must end at 37", lambda: ops.attend(x, torch.ones(T, 8), torch.ones(T, 8), torch.arange(T), [0, 9], 1, 1)),
    ]  # fmt: skip
    for text, call in wrong:
        with pytest.raises(ValueError, match=text):
            call()


def test_backward_after_an_optimizer_step_is_an_error(ops):
    a, b = torch.randn(4, K, requires_grad=True), torch.randn(N, 4, requires_grad=True)
    y = ops.project_add(torch.randn(T, K), torch.zeros(T, N), torch.randn(N, K), [a], [b], [1.0])
    with torch.no_grad():
        a.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
