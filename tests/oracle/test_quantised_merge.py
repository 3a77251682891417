"""lora-merge with bases in fewer bits: folders in bitsandbytes' format for transformers, and merges into decoded weights."""

import json
import shutil

import bitsandbytes.functional as bnb
import pytest
import torch
from conftest import run
from models import ModelFolder, load
from reference import open_adapter, weights, worst
from test_files import compare_rounded_once
from test_quantised import value_in
from test_quantised_models import (  # noqa: F401
    INT8,
    KINDS,
    NESTED,
    NF4,
    OTHERS,
    Kind,
    adapters_of,
    command_line,
    data,
    is_quantised,
    loss,
    others,
    plain,
    rows,
    saved,
)
from test_training import LOOP, SETTINGS
from transformers import AutoModelForCausalLM

BITSANDBYTES = ["nf4", "nf4_nested", "fp4", "fp4_nested", "int8"]


def merge(model, adapter, out, **flags):
    """What is printed."""
    flags = {"model_name_or_path": model, "output_dir": out, **({"adapter_name_or_path": adapter} if adapter else {}), **flags}
    return run("lora-merge", *command_line(flags)).stdout


def opened(folder):
    """By transformers, in training mode, which repacks no weights."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype="auto", device_map="cpu", attn_implementation="eager").train()


def values_of(model):
    """The weights of a model of transformers, those in fewer bits as their values."""
    values = {key: (value_in(parameter), parameter.data) for key, parameter in model.named_parameters()}
    return {key: data if value is None else value for key, (value, data) in values.items()}


def compare_weight(check, value, expected, where):
    check("lora-merge: weight, of its largest", worst(value, expected) / expected.abs().max().item(), None, where)


def compare_loss(check, model, expected, rows, where):  # noqa: F811
    relative = abs(loss(model, rows) / loss(expected, rows) - 1)
    check("lora-merge: loss in transformers, relative", relative, None, where)


def state_of(text):
    """The JSON in a tensor, its offset apart: the last bit of bitsandbytes' differs between 1 and 2 threads."""
    state = json.loads(bytes(text.tolist()))
    return state.pop("nested_offset", 0), state


# Folders in fewer bits ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qwen2", "gqa_bf16", "sharded_bf16", "qwen2_tied"])
@pytest.mark.parametrize("kind", BITSANDBYTES)
def test_the_same_tensors_as_transformers_saves(name, kind, zoo, saved, tmp_path):  # noqa: F811
    out, kind = tmp_path / "out", KINDS[kind]
    merge(zoo[name].folder, None, out, verify=True, device="cpu", **kind.flags)
    folder, _ = saved(name, kind)
    ours, theirs = weights(out), weights(folder.folder)
    assert set(ours) == set(theirs)
    for key, value in theirs.items():
        assert ours[key].dtype == value.dtype and ours[key].dim() == value.dim(), key
        if "quant_state" in key:
            (offset, state), (their_offset, their_state) = state_of(ours[key]), state_of(value)
            assert state == their_state and abs(offset - their_offset) <= 2**-22 * abs(their_offset), key
        elif kind.nested and "absmax" in key:  # less an offset whose last bit may differ
            assert worst(ours[key], value) <= (1 if value.dtype == torch.uint8 else 1e-6 * value.abs().max()), key
        else:
            assert torch.equal(ours[key], value), key
    config, theirs = (json.loads((f / "config.json").read_text()) for f in (out, folder.folder))
    dtype = "bfloat16" if name.endswith("bf16") else "float32"
    assert config["dtype"] == theirs["dtype"] == dtype
    config, theirs = config["quantization_config"], theirs["quantization_config"]
    assert set(config) == set(theirs)
    for key in set(config) - {"llm_int8_skip_modules"}:
        ignored = key.startswith("bnb_4bit") and (kind.bits == 8 or key == "bnb_4bit_compute_dtype")
        assert ignored or config[key] == theirs[key], key
    assert config["bnb_4bit_compute_dtype"] == dtype


@pytest.mark.parametrize("name", ["qwen2", "gqa_bf16", "sharded_bf16", "qwen2_tied"])
@pytest.mark.parametrize("kind", BITSANDBYTES)
def test_transformers_opens_it(name, kind, zoo, saved, rows, tmp_path, check):  # noqa: F811
    """With the values and the loss of the folder that transformers saves."""
    out, kind = tmp_path / "out", KINDS[kind]
    merge(zoo[name].folder, None, out, **kind.flags)
    theirs = shutil.copytree(saved(name, kind)[0].folder, tmp_path / "theirs")
    config = json.loads((theirs / "config.json").read_text())
    config["quantization_config"]["bnb_4bit_compute_dtype"] = config["dtype"]  # as we write it; theirs is float32
    (theirs / "config.json").write_text(json.dumps(config))
    model, theirs = opened(out), opened(theirs)
    values, expected = values_of(model), values_of(theirs)
    assert set(values) == set(expected)
    if not kind.nested:
        assert all(torch.equal(values[key], value) for key, value in expected.items())
        assert loss(model, rows) == loss(theirs, rows)
        return
    # The last bit of an offset moves scales by as much, and some of them to another code.
    for key, value in expected.items():
        rounding = 2**-8 if value.dtype == torch.bfloat16 else 2**-16
        assert worst(values[key], value) <= rounding * value.abs().max(), key
    if not name.endswith("bf16"):
        compare_loss(check, model, theirs, rows, f"{name}, {kind}")


@pytest.mark.parametrize(("name", "quant_type"), [("qwen2", "nf4"), ("gqa_bf16", "fp4"), ("qwen2", "int8")])
def test_with_lm_head(name, quant_type, zoo, data, tmp_path):  # noqa: F811
    """bitsandbytes' codes of the head, too; the folder is the base as it is quantised while it is loaded."""
    out, kind, source = tmp_path / "out", Kind(quant_type, head=True), weights(zoo[name].folder)
    text = merge(zoo[name].folder, None, out, **kind.flags)
    assert json.loads((out / "config.json").read_text())["quantization_config"]["llm_int8_skip_modules"] == [], text
    values = values_of(opened(out))
    for key, value in source.items():
        expected = kind.values(value) if kind.is_of(key, value) else value
        assert torch.equal(values[key], expected.to(values[key].dtype)), key
    asked = {"dataset": data[1], "dtype": "float32"}
    ours = run("lora-eval", *command_line(asked | {"model_name_or_path": zoo[name].folder} | kind.flags))
    again = run("lora-eval", *command_line(asked | {"model_name_or_path": out}))
    assert json.loads(ours.stdout)["loss"] == json.loads(again.stdout)["loss"]
    merge(out, None, tmp_path / "dense", merge_into="dequantized", verify=True, device="cpu")
    dense = weights(tmp_path / "dense")
    assert all(torch.equal(dense[key].to(value.dtype), value) for key, value in values.items())


@pytest.mark.parametrize(("name", "kind"), [("qwen2", "nf4"), ("gqa", "fp4"), ("baichuan", "nf4"), ("qwen2", "int8")])
def test_with_an_adapter(name, kind, zoo, adapters, rows, tmp_path, check):  # noqa: F811
    """Quantised from the sum in float32: bitsandbytes' codes for PEFT's sum, but where that lies between two codes."""
    adapter, kind, out = adapters_of(adapters, zoo, name), KINDS[kind], tmp_path / "out"
    text = merge(zoo[name].folder, adapter, out, verify=True, device="cpu", **kind.flags)
    assert "||W - Q(W)||" in text and "verify: every tensor is base + adapter" in text, text
    sums = open_adapter(zoo[name].load(), adapter).merge_and_unload().state_dict()
    ours, count, differ = weights(out), 0, 0
    for key, value in sums.items():
        if not is_quantised(key, value):
            if key in ours:
                compare_weight(check, ours[key], value, f"{name}: {key}")
            continue
        if kind is INT8:
            codes = bnb.int8_vectorwise_quant(value.half())[0]
        else:
            codes = bnb.quantize_4bit(value, quant_type=kind.quant_type)[0]
        differ += (ours[key] != codes).sum().item()
        count += codes.numel()
    assert count > 10_000 and differ <= 1e-3 * count, (differ, count)


# Into decoded weights -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), [("qwen2", "nf4"), ("gqa", "nf4_nested"), ("qwen2_tied", "fp4"), ("gqa", "int8")])
def test_into_a_quantised_folder(name, kind, zoo, saved, adapters, rows, tmp_path, check):  # noqa: F811
    """decode(base) + scale B A, as PEFT merges it into the dequantised weights."""
    folder, values = saved(name, KINDS[kind])
    adapter, out = adapters(name, target_modules=zoo[name].linear), tmp_path / "out"
    text = merge(folder.folder, adapter, out, verify=True, device="cpu")
    assert f"base: {folder.folder}, bitsandbytes" in text, text
    merged = open_adapter(values.load(), adapter).merge_and_unload()
    ours, theirs = weights(out), merged.state_dict()
    for key, value in ours.items():
        compare_weight(check, value, theirs[key], f"{name}: {key}")
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    compare_loss(check, load(out), merged, rows, f"{name}, {kind}")


@pytest.mark.parametrize(("name", "kind"), [("gqa_bf16", "nf4_nested"), ("gqa_bf16", "int8")])
def test_sum_is_rounded_once(name, kind, zoo, saved, adapters, tmp_path, check):  # noqa: F811
    folder, values = saved(name, KINDS[kind])
    adapter, out = adapters(name), tmp_path / "out"
    merge(folder.folder, adapter, out)
    ours = weights(out)
    if KINDS[kind] is INT8:  # bitsandbytes' own values are of float16: the sums are tested above
        ours = {key: value for key, value in ours.items() if not is_quantised(key, value)}
    compare_rounded_once(check, ours, weights(values.folder), adapter, name)


@pytest.mark.parametrize("title", OTHERS)
def test_into_a_folder_of_another_tool(title, others, zoo, adapters, rows, tmp_path, check):  # noqa: F811
    base, folder, values = others(title)
    adapter, out = adapters(base.name, target_modules=zoo[base.name].linear), tmp_path / "out"
    text = merge(folder, adapter, out, verify=True, device="cpu")
    assert "verify: every tensor is base + adapter" in text, text
    merged = open_adapter(values.load(), adapter).merge_and_unload()
    ours, theirs = weights(out), merged.state_dict()
    assert set(ours) == set(weights(values.folder)), "codes, scales and biases of zeros are gone"
    for key, value in ours.items():
        compare_weight(check, value, theirs[key], f"{title}: {key}")
    assert "quantization_config" not in json.loads((out / "config.json").read_text())
    compare_loss(check, ModelFolder(title, out, base.is_baichuan).load(), merged, rows, title)


# From training to both merges -----------------------------------------------------------------------------------------


def test_both_merges_of_a_run(zoo, saved, plain, data, lora_train, tmp_path, check):  # noqa: F811
    """What the run's record says is used; both merges are compared with what was trained."""
    rows, path = data
    base = zoo["qwen2"].folder
    trained = lora_train(
        model_name_or_path=base, dataset=path, target_modules="all-linear", r=4, max_steps=4, **SETTINGS, **LOOP, **NESTED.flags
    )
    config = json.loads((trained.folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base)
    flags = "--quantization_type nf4 --double_quantization"
    assert flags in (trained.folder / "README.md").read_text()
    asked = {"model_name_or_path": base, "adapter_name_or_path": trained.folder, "dataset": path}
    assert f"{flags} makes it the same" in run("lora-eval", *command_line(asked)).stderr
    same = asked | {"model_name_or_path": saved("qwen2", NESTED)[0].folder}
    assert "was trained on" not in run("lora-eval", *command_line(same)).stderr
    text = merge(base, trained.folder, tmp_path / "original", verify=True, device="cpu")
    for part in (f"base: {base}, the original weights", "was trained on nf4, nested scales", "||W - Q(W)||", "warning: in ",
                 "verify: against what was trained: merged into the original weights "):  # fmt: skip
        assert part in text, text
    expected = open_adapter(plain("qwen2", NESTED).load(), trained.folder)
    into_original = open_adapter(zoo["qwen2"].load(), trained.folder)
    compare_loss(check, load(tmp_path / "original"), into_original, rows, "into the original weights")
    text = merge(base, trained.folder, tmp_path / "dequantized", verify=True, device="cpu", merge_into="dequantized")
    assert "verify: against what was trained: " in text, text
    compare_loss(check, load(tmp_path / "dequantized"), expected, rows, "into the dequantised weights")
    assert not list(tmp_path.glob("**/compared*"))


def test_a_run_on_a_quantised_folder(zoo, saved, data, lora_train, tmp_path):  # noqa: F811
    """Its adapter names that folder; merged into the 16-bit folder, the two are compared."""
    folder = saved("qwen2", NF4)[0].folder
    trained = lora_train(
        model_name_or_path=folder, dataset=data[1], target_modules="all-linear", r=4, max_steps=2, **SETTINGS, **LOOP
    )
    config = json.loads((trained.folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(folder)
    assert "quantization" not in json.dumps(config)
    merge(folder, trained.folder, tmp_path / "out", verify=True, device="cpu")
    text = merge(zoo["qwen2"].folder, trained.folder, tmp_path / "original", verify=True, device="cpu")
    assert f"was trained on {folder}" in text and "verify: against what was trained: " in text, text
    load(tmp_path / "out")
    asked = {"adapter_name_or_path": trained.folder, "dataset": data[1]}
    text = run("lora-eval", *command_line(asked | {"model_name_or_path": zoo["qwen2"].folder})).stderr
    assert f"was trained on {folder}; this one is as stored: that folder as model_name_or_path makes it the same" in text
    text = run("lora-eval", *command_line(asked | {"model_name_or_path": folder})).stderr
    assert "was trained on" not in text, text
