"""Quantised model folders: writers of a layer in every format that GPTQ, AWQ, FP8 and compressed-tensors have, and
dequantisers of the files, both on their own: the one never asks the other, and neither asks Rankfold.

The dequantisers work on numpy's unsigned words; the writers shift torch's integers.
"""

import json
from dataclasses import dataclass, field

import numpy as np
import torch
from safetensors.torch import load_file, save_file

AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


@dataclass
class Layer:
    """The tensors of one layer, without its name, and quantization_config."""

    shape: tuple
    config: dict
    tensors: dict = field(default_factory=dict)


def save(folder, layers):
    """A folder with layers of one config, {name: Layer}."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"torch_dtype": "bfloat16", "quantization_config": next(iter(layers.values())).config}
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {f"{name}.{key}": value.contiguous()
               for name, layer in layers.items() for key, value in layer.tensors.items()}  # fmt: skip
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


# Writers ------------------------------------------------------------------------------------------------------------


def pack(codes, bits, dim):
    """Words of 32 bits along dim, the first code lowest."""
    per_word = 32 // bits
    codes = codes.transpose(dim, -1).to(torch.int64)
    codes = torch.nn.functional.pad(codes, (0, -codes.shape[-1] % per_word))
    words = (codes.unflatten(-1, (-1, per_word)) << (bits * torch.arange(per_word))).sum(-1)
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32).transpose(dim, -1)


def round_to_groups(weight, bits, group, symmetric, order=None, dtype=torch.float16):
    """codes [N, K], zeros and scales [N, G] of the nearest values; order: the group of each column."""
    rows, columns = weight.shape
    groups = -(-columns // group)
    order = torch.arange(columns) // group if order is None else order
    most = 2**bits - 1
    low, high = torch.zeros(2, rows, groups)
    for g in range(groups):
        part = weight[:, order == g]
        if part.numel():
            low[:, g], high[:, g] = part.amin(1).clamp(max=0), part.amax(1).clamp(min=0)
    if symmetric:
        high = torch.maximum(high, -low)
        scales, zeros = (2 * high / most).to(dtype), torch.full_like(high, 2 ** (bits - 1))
    else:
        scales = ((high - low) / most).to(dtype)
        zeros = (-low / scales.float()).round().clamp(0, most)
    codes = (weight / scales.float()[:, order] + zeros[:, order]).round().clamp(0, most)
    return codes.to(torch.int64), zeros.to(torch.int64), scales


def gptq(weight, bits=4, group=32, symmetric=True, act_order=False, v2=False, dtype=torch.float16):
    columns = weight.shape[1]
    size = columns if group == -1 else group
    order = torch.arange(columns) // size
    if act_order:
        order = order[torch.randperm(columns, generator=torch.Generator().manual_seed(columns))]
    codes, zeros, scales = round_to_groups(weight, bits, size, symmetric, order, dtype)
    stored = zeros if v2 else (zeros - 1) % 2**bits
    return Layer(
        tuple(weight.shape),
        {"quant_method": "gptq", "bits": bits, "group_size": group, "desc_act": act_order, "sym": symmetric,
         "checkpoint_format": "gptq_v2" if v2 else "gptq", "damp_percent": 0.01, "true_sequential": True},
        {"qweight": pack(codes.t(), bits, 0), "qzeros": pack(stored.t(), bits, 1), "scales": scales.t(),
         "g_idx": order.to(torch.int32)},
    )  # fmt: skip


def awq(weight, group=32, dtype=torch.float16):
    codes, zeros, scales = round_to_groups(weight, 4, group, False, dtype=dtype)

    def ordered(x):  # the column that lies at each place of a word
        return x.t().unflatten(1, (-1, 8))[:, :, AWQ_ORDER].flatten(1)

    return Layer(
        tuple(weight.shape),
        {"quant_method": "awq", "bits": 4, "group_size": group, "zero_point": True, "version": "gemm"},
        {"qweight": pack(ordered(codes), 4, 1), "qzeros": pack(ordered(zeros), 4, 1), "scales": scales.t()},
    )


def compressed(weights, weight_format):
    return {"quant_method": "compressed-tensors", "format": weight_format, "quantization_status": "compressed",
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": None}},
            "ignore": ["lm_head"], "kv_cache_scheme": None, "global_compression_ratio": None}  # fmt: skip


def pack_quantized(weight, bits=4, group=32, symmetric=True, act_order=False, dtype=torch.bfloat16):
    """group 0: a scale for each row."""
    rows, columns = weight.shape
    size = group or columns
    order = torch.arange(columns) // size
    if act_order:
        order = order[torch.randperm(columns, generator=torch.Generator().manual_seed(columns))]
    codes, zeros, scales = round_to_groups(weight, bits, size, symmetric, order, dtype)
    shape = torch.tensor([rows, columns])
    tensors = {"weight_packed": pack(codes, bits, 1), "weight_scale": scales, "weight_shape": shape}
    if not symmetric:
        tensors["weight_zero_point"] = pack(zeros, bits, 0)
    if act_order:
        tensors["weight_g_idx"] = order.to(torch.int32)
    arguments = {"num_bits": bits, "type": "int", "symmetric": symmetric, "dynamic": False, "group_size": group or None,
                 "strategy": "group" if group else "channel", "actorder": "group" if act_order else None}  # fmt: skip
    return Layer((rows, columns), compressed(arguments, "pack-quantized"), tensors)


def to_fp8(weight, scale):
    return (weight / scale.float()).clamp(-448, 448).to(torch.float8_e4m3fn)


def fp8_blocks(weight, block=128, dtype=torch.float32):
    rows, columns = weight.shape
    padded = torch.nn.functional.pad(weight.abs(), (0, -columns % block, 0, -rows % block))
    scale = (padded.unflatten(0, (-1, block)).unflatten(2, (-1, block)).amax((1, 3)) / 448).to(dtype)
    spread = scale.kron(torch.ones(block, block, dtype=dtype))[:rows, :columns]
    return Layer(
        (rows, columns),
        {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [block, block]},
        {"weight": to_fp8(weight, spread), "weight_scale_inv": scale},
    )


def fp8_scaled(weight, config, strategy, dtype=torch.float32):
    scale = weight.abs().amax(1, keepdim=True) if strategy == "channel" else weight.abs().amax()
    scale = (scale / 448).to(dtype)
    return Layer(tuple(weight.shape), config, {"weight": to_fp8(weight, scale), "weight_scale": scale})


def float_quantized(weight, strategy="channel", dtype=torch.bfloat16):
    weights = {"num_bits": 8, "type": "float", "symmetric": True, "dynamic": False, "strategy": strategy}
    return fp8_scaled(weight, compressed(weights, "float-quantized"), strategy, dtype)


def fbgemm(weight):
    return fp8_scaled(weight, {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, "channel")


def modelopt(weight):
    return fp8_scaled(weight, {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]}, "tensor")


# Dequantisers: values in fp32 of the files ---------------------------------------------------------------------------


def unpack(words, bits, axis):
    """All codes of int32 words, along an axis."""
    words = np.moveaxis(words.numpy().view(np.uint32), axis, -1)
    per_word = 32 // bits
    codes = np.stack([words >> np.uint32(bits * i) & np.uint32(2**bits - 1) for i in range(per_word)], -1)
    return np.moveaxis(codes.reshape(*words.shape[:-1], -1), -1, axis).astype(np.int64)


def multiply(differences, scales):
    """As the reference libraries do: in the dtype of the scales."""
    return (torch.from_numpy(differences).to(scales.dtype) * scales).float()


def of_gptq(layer, config):
    bits = config["bits"]
    codes = unpack(layer["qweight"], bits, 0)
    zeros = unpack(layer["qzeros"], bits, 1)
    if config.get("checkpoint_format", "gptq") == "gptq":
        zeros = (zeros + 1) % 2**bits
    group = layer["g_idx"].long()
    return multiply(codes - zeros[group.numpy()], layer["scales"][group]).t()


def of_awq(layer, config):
    place = np.argsort(AWQ_ORDER)

    def columns(words):
        codes = unpack(words, 4, 1)
        return codes.reshape(len(codes), -1, 8)[:, :, place].reshape(codes.shape)

    codes, zeros = columns(layer["qweight"]), columns(layer["qzeros"])
    group = np.arange(len(codes)) // config["group_size"]
    return multiply(codes - zeros[group], layer["scales"][torch.from_numpy(group)]).t()


def of_compressed_tensors(layer, config):
    arguments = config["config_groups"]["group_0"]["weights"]
    if "weight" in layer:
        return layer["weight"].float() * layer["weight_scale"].float()
    rows, columns = layer["weight_shape"].tolist()
    bits, middle = arguments["num_bits"], 2 ** (arguments["num_bits"] - 1)
    codes = unpack(layer["weight_packed"], bits, 1)[:, :columns] - middle
    group = layer.get("weight_g_idx")
    if group is None:
        group = torch.arange(columns) // (arguments["group_size"] or columns)
    group = group.long()
    if not arguments["symmetric"]:
        zeros = unpack(layer["weight_zero_point"], bits, 0)[:rows] - middle
        codes = codes - zeros[:, group.numpy()]
    return multiply(codes, layer["weight_scale"][:, group])


def of_fp8(layer, config):
    scale, (rows, columns) = layer["weight_scale_inv"].float(), layer["weight"].shape
    down, across = config["weight_block_size"]
    return layer["weight"].float() * scale[torch.arange(rows) // down][:, torch.arange(columns) // across]


def of_one_scale(layer, config):
    return layer["weight"].float() * layer["weight_scale"].float()


DEQUANTISERS = {"gptq": of_gptq, "awq": of_awq, "compressed-tensors": of_compressed_tensors, "fp8": of_fp8,
                "fbgemm_fp8": of_one_scale, "modelopt": of_one_scale}  # fmt: skip


def dequantise(folder, modules):
    """{module: fp32 values} of a folder's layers."""
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    tensors = load_file(folder / "model.safetensors")
    values = {}
    for module in modules:
        prefix = module + "."
        layer = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        values[module] = DEQUANTISERS[config["quant_method"]](layer, config)
    return values
