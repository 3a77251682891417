#!/usr/bin/env python3
"""Converts the pytorch_model.bin of a Hugging Face model folder, in one piece or in shards, to safetensors.

    python3 examples/convert_bin.py baichuan-7b baichuan-7b-safetensors

Needs torch, safetensors and numpy. Pickles are opened with weights_only=True, so they cannot run code. Dtypes and
shards are kept, every other file of the folder is copied.
"""

import argparse
import json
import pickle
import shutil
import sys
from pathlib import Path

INDEX = "pytorch_model.bin.index.json"
WEIGHTS = (".bin", ".safetensors", ".index.json", ".pt", ".pth", ".h5", ".msgpack", ".gguf")


class BadInput(Exception):
    pass


def shard_names(folder):
    """Names of the pickles to convert, in order."""
    if (folder / "pytorch_model.bin").is_file():
        return ["pytorch_model.bin"]
    if not (folder / INDEX).is_file():
        raise BadInput(f"{folder}: expected pytorch_model.bin or {INDEX}, got neither")
    try:
        names = sorted(set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise BadInput(f"{folder / INDEX}: expected a weight_map of file names, got {error!r}") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".bin"):
            raise BadInput(f"{folder / INDEX}: expected the name of a .bin file in this folder, got {name!r}")
        if not (folder / name).is_file():
            raise BadInput(f"{folder / name}: expected a file, as {INDEX} says, got nothing")
    return names


def load(path):
    """The tensors of one pickle, each with storage of its own."""
    import torch

    options = {"map_location": "cpu", "weights_only": True}
    try:
        try:
            state = torch.load(path, mmap=True, **options)
        except RuntimeError:  # files older than torch 1.6 are no zip archives and cannot be mapped
            state = torch.load(path, **options)
    except pickle.UnpicklingError as error:
        raise BadInput(f"{path}: expected tensors alone, got a pickle that holds other objects or is broken") from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise BadInput(f"{path}: cannot be read as weights: {str(error).splitlines()[0]}") from error
    if not isinstance(state, dict):
        raise BadInput(f"{path}: expected a dictionary of tensors, got {type(state).__name__}")
    tensors, storages = {}, set()
    for name, value in state.items():
        if not isinstance(value, torch.Tensor):
            raise BadInput(f"{path}: '{name}': expected a tensor, got {type(value).__name__}")
        if name.endswith("rotary_emb.inv_freq"):  # computed from the config
            continue
        storage = value.untyped_storage().data_ptr()
        # safetensors refuses tensors that share memory: tied weights, slices of one buffer.
        is_shared = storage in storages
        tensors[name] = value.clone(memory_format=torch.contiguous_format) if is_shared else value.contiguous()
        storages.add(storage)
    return tensors


def write_folder(folder, names, output):
    """Fills the empty folder `output`."""
    from safetensors.torch import save_file

    weight_map, total_size = {}, 0
    for name in names:
        target = name.replace("pytorch_model", "model", 1)[: -len(".bin")] + ".safetensors"
        tensors = load(folder / name)
        for tensor in set(tensors) & set(weight_map):
            raise BadInput(f"{folder}: tensor '{tensor}' is in two shards: {weight_map[tensor]} and {target}")
        save_file(tensors, output / target, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, target))
        total_size += sum(tensor.nbytes for tensor in tensors.values())
        print(f"{name} -> {target}: {len(tensors)} tensors", flush=True)
    if len(names) > 1:
        index = {"metadata": {"total_size": total_size}, "weight_map": weight_map}
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (output / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith(".") and not path.name.endswith(WEIGHTS):
            shutil.copyfile(path, output / path.name)


def convert(folder, output):
    if not folder.is_dir():
        raise BadInput(f"{folder}: expected a model folder, got {'a file' if folder.exists() else 'nothing'}")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise BadInput(f"{output}: expected nothing or an empty folder")
    names = shard_names(folder)
    temporary = output.absolute().with_name(output.absolute().name + ".tmp")  # a folder appears whole or not at all
    temporary.mkdir(parents=True)
    try:
        write_folder(folder, names, temporary)
        temporary.rename(output)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="model folder with pytorch_model*.bin")
    parser.add_argument("output", type=Path, help="folder to write; must not exist or be empty")
    arguments = parser.parse_args()
    try:
        convert(arguments.folder, arguments.output)
    except (BadInput, OSError) as error:
        print(f"convert_bin.py: {error}", file=sys.stderr)
        return 2
    except ImportError as error:
        print(f"convert_bin.py: {error} (pip install torch safetensors numpy)", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
