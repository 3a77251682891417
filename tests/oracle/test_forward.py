"""Logits, loss and LoRA gradients against transformers + PEFT."""

import json

import pytest
import torch
from models import make_rows
from reference import forward, open_adapter, worst

EXACT = ["llama", "gqa", "head_dim", "tied", "linear_rope", "spelling_4", "spelling_4_theta", "sharded", "baichuan"]

# name, model, what PEFT's LoraConfig says
TARGETS = [
    ("W_pack", "baichuan", {"target_modules": ["W_pack"]}),
    ("W_pack and o_proj of layer 1", "baichuan", {"target_modules": ["W_pack", "o_proj"], "layers_to_transform": [1]}),
    ("q, k, v", "gqa", {"target_modules": ["q_proj", "k_proj", "v_proj"]}),
    ("one module by its path", "gqa", {"target_modules": ["self_attn.v_proj", "model.layers.2.mlp.up_proj"]}),
    ("all-linear", "gqa", {"target_modules": "all-linear"}),
    ("the head", "gqa", {"target_modules": ["lm_head", "q_proj"]}),
    ("regex", "gqa", {"target_modules": r".*layers\.[02]\.(self_attn\.(q|o)_proj|mlp\.down_proj)"}),
    ("rank and alpha patterns", "gqa", {
        "target_modules": ["q_proj", "v_proj", "gate_proj", "down_proj"],
        "rank_pattern": {"v_proj": 3, "layers.1.mlp.gate_proj": 9, r".*\.2\..*down_proj": 2},
        "alpha_pattern": {"layers.0.self_attn.v_proj": 20, "v_proj": 7, "gate_proj": 1},
    }),
    ("rsLoRA", "gqa", {"target_modules": ["q_proj", "down_proj"], "use_rslora": True, "rank_pattern": {"down_proj": 8}}),
    ("exclude list", "gqa", {"target_modules": "all-linear", "exclude_modules": ["o_proj", "layers.0.mlp.up_proj"]}),
    ("exclude regex", "baichuan", {"target_modules": ["W_pack", "gate_proj"], "exclude_modules": r".*\.1\..*"}),
    ("layers", "gqa", {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [0, 2]}),
    ("one layer", "gqa", {"target_modules": ["o_proj"], "layers_to_transform": 1}),
    ("rank above the width", "llama", {"target_modules": ["k_proj"], "r": 70, "lora_alpha": 3}),
]  # fmt: skip


LORA_GRADIENT, FULL_GRADIENT = "fp32 LoRA gradient, of the largest entry", "fp32 gradient in full, of the largest entry"


def compare(check, ours, theirs, where, gradients=LORA_GRADIENT):
    largest = theirs.logits.abs().max().item()
    assert 1 < largest < 30, f"the model of {where} is badly scaled: largest logit {largest}"
    check("fp32 logits, absolute", worst(ours["logits"], theirs.logits), None, where)
    check("fp32 loss, relative", abs(ours["eval_loss"].item() / theirs.loss - 1), None, where)
    if theirs.gradients:
        check("fp32 loss in training, relative", abs(ours["loss"].item() / theirs.loss - 1), None, where)
        compare_gradients(check, ours, theirs, where, gradients, None)


def compare_gradients(check, ours, theirs, where, quantity, limit):
    found = {key.removeprefix("grad.") for key in ours if key.startswith("grad.")}
    assert found == set(theirs.gradients), found ^ set(theirs.gradients)
    for key, gradient in theirs.gradients.items():
        largest = gradient.abs().max().item()
        assert largest > 0, f"{key} has no gradient: a poor test"
        check(quantity, worst(ours["grad." + key], gradient) / largest, limit, f"{where}: {key}")


@pytest.mark.parametrize("name", EXACT)
def test_base(name, zoo, rows, probe, check):
    theirs = forward(zoo[name].load(), rows, gradients=False)
    ours = probe.forward(zoo[name].folder, None, rows)
    assert ours["labels"].item() == rows.label_count()
    compare(check, ours, theirs, name)


@pytest.mark.parametrize("name", EXACT)
def test_every_linear_layer_adapted(name, zoo, rows, adapters, probe, check):
    adapter = adapters(name)
    theirs = forward(open_adapter(zoo[name].load(), adapter), rows)
    compare(check, probe.forward(zoo[name].folder, adapter, rows), theirs, f"{name} + every linear layer")


@pytest.mark.parametrize(("title", "name", "config"), TARGETS, ids=[t[0] for t in TARGETS])
def test_targets(title, name, config, zoo, rows, adapters, probe, check):
    adapter = adapters(name, **config)
    theirs = forward(open_adapter(zoo[name].load(), adapter), rows)
    compare(check, probe.forward(zoo[name].folder, adapter, rows), theirs, f"{name}, {title}")


@pytest.mark.parametrize("name", ["gqa", "tied", "baichuan"])
def test_full(name, zoo, rows, probe, check):
    theirs = forward(zoo[name].load(), rows)
    ours = probe.forward(zoo[name].folder, "full", rows)
    check("fp32 loss in training, relative", abs(ours["loss"].item() / theirs.loss - 1), None, f"{name} in full")
    compare_gradients(check, ours, theirs, f"{name} in full", FULL_GRADIENT, None)


def test_float16_folder_runs_exactly_in_float32(zoo, rows, probe, check):
    theirs = forward(zoo["llama_f16"].load(), rows, gradients=False)
    ours = probe.forward(zoo["llama_f16"].folder, None, rows, dtype="float32")
    compare(check, ours, theirs, "float16 folder in float32")
    automatic = probe.forward(zoo["llama_f16"].folder, None, rows)["logits"]
    assert worst(automatic, theirs.logits) < 0.1 * theirs.logits.abs().max()


@pytest.mark.parametrize("name", ["gqa_bf16", "baichuan_bf16"])
def test_bfloat16_is_as_good_as_plain_torch(name, zoo, adapters, probe, check):
    compare_bfloat16(check, probe, zoo[name], adapters(name), make_rows(24, seed=5))


def compare_bfloat16(check, probe, model, adapter, rows):
    """style.md C4: at most twice the error of plain bf16, both against float64; floor 4 eps of the largest."""
    exact = forward(open_adapter(model.load(torch.float64), adapter).double(), rows)
    plain = forward(open_adapter(model.load(torch.bfloat16), adapter), rows)
    ours = probe.forward(model.folder, adapter, rows, dtype="bfloat16")
    name, eps = model.name, torch.finfo(torch.bfloat16).eps

    def limit(plain, exact):
        return max(2 * worst(plain, exact), 4 * eps * exact.abs().max().item())

    def bias(y, e):
        return abs((y.double() * e.double()).sum() / (e.double() * e.double()).sum() - 1).item()

    error, most = worst(ours["logits"], exact.logits), limit(plain.logits, exact.logits)
    check("bf16 logits, share of the limit", error / most, 1, name)
    # A token's logits are made of one hidden state, so they have no more errors of their own than it has features.
    hidden = json.loads((model.folder / "config.json").read_text())["hidden_size"]
    noise = 4 * eps / (len(exact.logits) * min(hidden, exact.logits.shape[1])) ** 0.5
    check("bf16 logits, scale bias", bias(ours["logits"], exact.logits), max(2 * bias(plain.logits, exact.logits), noise), name)
    error = abs(ours["loss"].item() / exact.loss - 1)
    check("bf16 loss, relative", error, max(2 * abs(plain.loss / exact.loss - 1), 4 * eps / rows.label_count() ** 0.5), name)
    for key, gradient in exact.gradients.items():
        error, most = worst(ours["grad." + key], gradient), limit(plain.gradients[key], gradient)
        check("bf16 LoRA gradient, share of the limit", error / most, 1, f"{name}: {key}")
