"""Matrices in 4 and 8 bits against bitsandbytes: codes, scales and values, bit for bit."""

import os

import bitsandbytes.functional as bnb
import pytest
import torch
from bitsandbytes.nn import Int8Params, Params4bit
from conftest import run
from safetensors.torch import load_file, save_file

BLOCK, NESTED_BLOCK = 64, 256
FOUR_BITS, EIGHT_BITS = ["nf4", "fp4"], ["int8", "fp8"]


def quantise_4bit(weight, quant_type, nested=False):
    """codes and bitsandbytes' state."""
    return bnb.quantize_4bit(weight, blocksize=BLOCK, quant_type=quant_type, compress_statistics=nested)


def quantise_int8(weight):
    """As Linear8bitLt keeps a weight."""
    codes, scale, _ = bnb.int8_vectorwise_quant(weight.half())
    return codes, scale


def quantise_fp8(weight):
    """By row; the largest of a row becomes the largest of E4M3. A row of zeros has the scale 1."""
    scale = weight.float().abs().amax(1, keepdim=True) / torch.finfo(torch.float8_e4m3fn).max
    scale = scale.where(scale > 0, 1)
    return (weight.float() / scale).to(torch.float8_e4m3fn), scale


def dequantised(weight, quant_type, nested=False):
    """The values of a weight that is quantised and read again, in its dtype."""
    if quant_type in FOUR_BITS:
        return bnb.dequantize_4bit(*quantise_4bit(weight, quant_type, nested)).reshape(weight.shape)
    if quant_type == "int8":
        return bnb.int8_vectorwise_dequant(*quantise_int8(weight)).to(weight.dtype)
    codes, scale = quantise_fp8(weight)
    return (codes.float() * scale).to(weight.dtype)


def value_in(weight):
    """The value of a weight of bitsandbytes' layers; None: it is another's."""
    if isinstance(weight, Params4bit):
        return bnb.dequantize_4bit(weight.data, weight.quant_state)
    return bnb.int8_vectorwise_dequant(weight.data, weight.SCB) if isinstance(weight, Int8Params) else None


# Matrices -----------------------------------------------------------------------------------------------------------


def midpoints(quant_type):
    """Blocks whose largest is 1 or -1: all codes, the middles between them, and what lies beside those."""
    codes = bnb.get_4bit_type(quant_type, device="cpu").sort().values
    middles = (codes[1:] + codes[:-1]) / 2
    beside = [torch.nextafter(middles, torch.full_like(middles, end)) for end in (-2.0, 2.0)]
    values = torch.cat([codes, middles, *beside, torch.tensor([0.0, -0.0, 1.0])])[:BLOCK]
    return torch.stack([values, -values, 0.37 * values, 3 * values]).repeat(1, 2)[:, :BLOCK]


def matrices():
    generator = torch.Generator().manual_seed(5)

    def normal(rows, columns, dtype=torch.float32, scale=0.05):
        return (scale * torch.randn(rows, columns, generator=generator)).to(dtype)

    wide = normal(40, 128) * torch.exp(3 * torch.randn(40, 1, generator=generator))  # rows of every size
    holes = normal(6, 128)
    holes[1] = 0
    holes[4, :64] = 0
    holes[5] = 1e-30 * holes[5]
    return {
        "plain": normal(96, 320),
        "bf16": normal(64, 192, torch.bfloat16),
        "f16": normal(64, 192, torch.float16),
        "blocks_of_blocks": normal(160, 300),  # 750 scales: two whole blocks of them and a part
        "short_block": normal(33, 50),
        "odd": normal(7, 9),
        "one_row": normal(1, 70),
        "uneven_rows": wide,
        "uneven_bf16": wide.bfloat16(),
        "holes": holes,
        "middles_nf4": midpoints("nf4"),
        "middles_fp4": midpoints("fp4"),
        "middles_int8": torch.cat([torch.arange(-63.5, 64).view(2, 64), torch.full((2, 1), 127.0)], 1),
        "middles_fp8": torch.cat([torch.linspace(-31, 31, 125).view(1, 125), torch.tensor([[448.0]])], 1),
    }


MATRICES = matrices()


def quantise(folder, **environment):
    """What Rankfold makes of them."""
    save_file({name: m.contiguous() for name, m in MATRICES.items()}, folder / "in.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        for key, value in environment.items():
            patch.setenv(key, value)
        run("rankfold-probe", "quantize", folder / "in.safetensors", folder / "out.safetensors")
    return load_file(folder / "out.safetensors")


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return quantise(tmp_path_factory.mktemp("quantise"))


def same(ours, theirs):
    """To the bit."""
    ours, theirs = ours.reshape(-1), theirs.reshape(-1)
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    return torch.equal(ours.view(torch.uint8), theirs.contiguous().view(torch.uint8))


def state_of(ours, name, quant_type, weight, nested):
    """bitsandbytes' state made of our scales."""
    code = bnb.get_4bit_type(quant_type, device="cpu")
    part = lambda key: ours[f"{name}.{key}"].reshape(-1)  # noqa: E731
    given = {"shape": weight.shape, "code": code, "blocksize": BLOCK, "quant_type": quant_type, "dtype": weight.dtype}
    if not nested:
        return bnb.QuantState(absmax=part("scale"), **given)
    scales = bnb.QuantState(absmax=part("scale"), code=part("nested_table"), blocksize=NESTED_BLOCK, dtype=torch.float32)
    return bnb.QuantState(absmax=part("nested_codes"), offset=part("offset")[0], state2=scales, **given)


# Four bits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("quant_type", FOUR_BITS)
def test_codes_and_absmax(quant_type, matrix, ours):
    codes, state = quantise_4bit(MATRICES[matrix], quant_type)
    assert same(ours[f"{quant_type}.{matrix}.codes"], codes)
    assert same(ours[f"{quant_type}.{matrix}.scale"], state.absmax)
    assert same(ours[f"{quant_type}.nested.{matrix}.codes"], codes)


@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("quant_type", FOUR_BITS)
def test_nested_scales(quant_type, matrix, ours):
    """With our offset: theirs depends on the number of threads, in its last bit."""
    absmax = quantise_4bit(MATRICES[matrix], quant_type)[1].absmax
    name = f"{quant_type}.nested.{matrix}"
    offset = ours[f"{name}.offset"]
    mean = absmax.double().mean().item()
    assert abs(offset.item() - mean) <= 2 * torch.finfo(torch.float32).eps * mean
    codes, state = bnb.quantize_blockwise(absmax - offset, blocksize=NESTED_BLOCK)
    assert same(ours[f"{name}.nested_table"], state.code)
    assert same(ours[f"{name}.scale"], state.absmax)
    assert same(ours[f"{name}.nested_codes"], codes)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("quant_type", FOUR_BITS)
def test_values(quant_type, nested, ours):
    for matrix, weight in MATRICES.items():
        if weight.shape[1] % 2:
            continue  # bitsandbytes compiles code for these
        name = f"{quant_type}.{'nested.' if nested else ''}{matrix}"
        state = state_of(ours, name, quant_type, weight, nested)
        theirs = bnb.dequantize_4bit(ours[f"{name}.codes"].view(-1, 1), state)
        # Their kernel has a zero with a sign in fp4, which their table has not.
        assert torch.equal(ours[f"{name}.values"], theirs.float()), matrix
        assert torch.equal(ours[f"{name}.values_bf16"], theirs.bfloat16()), matrix


# Eight bits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("matrix", MATRICES)
def test_int8(matrix, ours):
    codes, scale = quantise_int8(MATRICES[matrix])
    codes[scale == 0] = 0  # theirs divides by it
    assert same(ours[f"int8.{matrix}.codes"].view(torch.int8), codes)
    values = ours[f"int8.{matrix}.values"]
    assert same(values, bnb.int8_vectorwise_dequant(codes, scale))


@pytest.mark.parametrize("matrix", MATRICES)
def test_fp8(matrix, ours):
    codes, scale = quantise_fp8(MATRICES[matrix])
    assert same(ours[f"fp8.{matrix}.scale"], scale)
    assert same(ours[f"fp8.{matrix}.codes"], codes.view(torch.uint8))
    assert same(ours[f"fp8.{matrix}.values"], codes.float() * scale)


# The machine --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("threads", "capability"), [("1", None), ("3", "baseline"), ("2", "avx2")])
def test_threads_and_instructions_do_not_matter(threads, capability, ours, tmp_path):
    environment = {"OMP_NUM_THREADS": threads} | ({"RANKFOLD_CPU_CAPABILITY": capability} if capability else {})
    assert os.environ["OMP_NUM_THREADS"] != threads or capability
    again = quantise(tmp_path, **environment)
    assert set(again) == set(ours) and all(same(again[key], value) for key, value in ours.items())
