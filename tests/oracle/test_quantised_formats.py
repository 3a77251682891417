"""Quantised folders as others write them, read by Rankfold, and folders of Rankfold's opened by transformers."""

import json
import shutil
from functools import partial

import pytest
import quantised_formats as formats
import torch
from conftest import run
from reference import forward
from safetensors import safe_open
from safetensors.torch import load_file
from test_quantised import value_in
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

# Name, writer, a multiple that the rows must be of.
FORMATS = [
    ("gptq 4 bits", formats.gptq, 8),
    ("gptq 4 bits, not symmetric", partial(formats.gptq, symmetric=False), 8),
    ("gptq 4 bits, act order", partial(formats.gptq, act_order=True, symmetric=False), 8),
    ("gptq 4 bits, one group", partial(formats.gptq, group=-1), 8),
    ("gptq 4 bits, v2", partial(formats.gptq, v2=True, symmetric=False, dtype=torch.bfloat16), 8),
    ("gptq 8 bits", partial(formats.gptq, bits=8, symmetric=False), 8),
    ("gptq 8 bits, act order, v2", partial(formats.gptq, bits=8, act_order=True, v2=True, group=128), 8),
    ("awq", formats.awq, 8),
    ("awq, groups of 128", partial(formats.awq, group=128, dtype=torch.float32), 8),
    ("packed 4 bits", formats.pack_quantized, 1),
    ("packed 4 bits, not symmetric", partial(formats.pack_quantized, symmetric=False), 1),
    ("packed 4 bits, act order", partial(formats.pack_quantized, act_order=True, dtype=torch.float16), 1),
    ("packed 8 bits by row", partial(formats.pack_quantized, bits=8, group=0), 1),
    ("packed 8 bits, not symmetric", partial(formats.pack_quantized, bits=8, symmetric=False, dtype=torch.float32), 1),
    ("fp8 blocks", formats.fp8_blocks, 1),
    ("fp8 blocks, bfloat16 scales", partial(formats.fp8_blocks, block=16, dtype=torch.bfloat16), 1),
    ("float by row", formats.float_quantized, 1),
    ("float by tensor", partial(formats.float_quantized, strategy="tensor", dtype=torch.float32), 1),
    ("fbgemm", formats.fbgemm, 1),
    ("modelopt", formats.modelopt, 1),
]
SHAPES = [(8, 32), (40, 96), (131, 200), (264, 520)]


def dequantized(folder, shapes, tmp_path):
    """What rankfold-probe reads."""
    given, out = tmp_path / "shapes.json", tmp_path / "values.safetensors"
    given.write_text(json.dumps(shapes))
    run("rankfold-probe", "dequantize", folder, given, out)
    return load_file(out)


@pytest.mark.parametrize(("title", "write", "multiple"), FORMATS, ids=[f[0] for f in FORMATS])
def test_reads_formats(title, write, multiple, tmp_path):
    generator = torch.Generator().manual_seed(7)
    layers, weights = {}, {}
    for i, (rows, columns) in enumerate(SHAPES):
        name = f"model.layers.{i}.mlp.up_proj"
        weights[name] = 0.05 * torch.randn(rows // multiple * multiple, columns, generator=generator)
        layers[name] = write(weights[name])
    folder = formats.save(tmp_path / "model", layers)
    expected = formats.dequantise(folder, layers)
    ours = dequantized(folder, {name: layer.shape for name, layer in layers.items()}, tmp_path)
    for name, weight in weights.items():
        # The oracle itself is right: what it reads is near to what was quantised.
        share = 1 / 7 if "4 bits" in title or "awq" in title else 1 / 16
        assert (expected[name] - weight).abs().max() <= share * weight.abs().max(), name
        assert torch.equal(ours[name], expected[name]), name


KINDS = {
    "nf4": dict(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    "fp4": dict(load_in_4bit=True, bnb_4bit_quant_type="fp4"),
    "nf4 nested": dict(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True),
    "fp4 nested": dict(load_in_4bit=True, bnb_4bit_quant_type="fp4", bnb_4bit_use_double_quant=True),
    "int8": dict(load_in_8bit=True),
}  # fmt: skip


def open_quantised(folder, dtype="auto", **settings):
    """In train mode, in which bitsandbytes never repacks a weight."""
    config = {"quantization_config": BitsAndBytesConfig(**settings)} if settings else {}
    return AutoModelForCausalLM.from_pretrained(folder, device_map="cpu", dtype=dtype, **config).train()


def values_of(model):
    """{module: values in fp32} of its quantised layers."""
    values = {name: value_in(getattr(module, "weight", None)) for name, module in model.named_modules()}
    values = {name: value.float() for name, value in values.items() if value is not None}
    assert values
    return values


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["gqa", "gqa_bf16"])
def test_reads_bitsandbytes(kind, name, zoo, tmp_path):
    """What transformers quantises and saves, value for value."""
    model = open_quantised(zoo[name].folder, **KINDS[kind])
    model.save_pretrained(tmp_path / "saved")
    expected = values_of(model)
    ours = dequantized(tmp_path / "saved", {key: value.shape for key, value in expected.items()}, tmp_path)
    for key, value in expected.items():
        assert torch.equal(ours[key], value), key


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["gqa", "gqa_bf16"])
def test_transformers_opens_ours(kind, name, zoo, rows, tmp_path, probe, check):
    """The same files as transformers writes, but for a nested offset; its values are ours; its loss is the same."""
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    source = zoo[name].folder
    ours.mkdir()
    flags = ["--quantization_type", kind.split()[0]]
    if "nested" in kind:
        flags += ["--double_quantization", "true"]
    run("rankfold-probe", "save_quantized", source / "model.safetensors", ours, *flags)
    model = open_quantised(source, **KINDS[kind])
    model.save_pretrained(theirs)
    config = json.loads((theirs / "config.json").read_text())
    written = json.loads((ours / "quantization_config.json").read_text())
    expected = config["quantization_config"]
    assert written.keys() == expected.keys()
    differing = {key for key in written if written[key] != expected[key]}
    # We name the head, and the dtype of the source; "fp4" is only a default where there are 8 bits.
    assert differing <= {"llm_int8_skip_modules", "bnb_4bit_compute_dtype"}
    config["quantization_config"] = written
    (ours / "config.json").write_text(json.dumps(config))
    for file in theirs.glob("*.json"):
        if not (ours / file.name).exists():
            shutil.copy(file, ours)

    with safe_open(ours / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    mine, reference = load_file(ours / "model.safetensors"), load_file(theirs / "model.safetensors")
    assert mine.keys() == reference.keys()
    for key, value in reference.items():
        assert (mine[key].dtype, mine[key].shape) == (value.dtype, value.shape) or "quant_state" in key, key
        is_of_scales = "nested" in kind and (key.endswith("absmax") or "quant_state" in key)
        if not is_of_scales:  # which depend on the last bit of a mean
            assert torch.equal(mine[key], value), key
    opened = open_quantised(ours)
    values = values_of(opened)
    read = dequantized(ours, {key: value.shape for key, value in values.items()}, tmp_path)
    for key, value in values.items():
        assert torch.equal(read[key], value), key

    # LLM.int8's products quantise activations, which ours do not.
    if name == "gqa" and kind != "int8":
        theirs_of_ours = forward(opened, rows, gradients=False).loss
        loss = probe.forward(ours, None, rows, dtype="float32")["eval_loss"].item()
        check("fp32 loss, relative", abs(loss / theirs_of_ours - 1), None, f"{kind} folder of ours")
