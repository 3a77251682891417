"""Training on bases in 4 and 8 bits against PEFT on the dequantised weights.

bitsandbytes quantises the weights, and their values go into a plain model before any forward: on some processors a forward
repacks 4-bit weights and rounds their scales, and LLM.int8's products quantise activations, too. Both ways in are tested:
a folder that is quantised while it is loaded, and one that was saved so.
"""

import json
import shutil
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import pytest
import quantised_formats as formats
import torch
from conftest import command_line
from conftest import run as run_program
from models import ModelFolder, make_rows
from reference import forward, open_adapter, train, weights, windows
from safetensors.torch import save_file
from test_forward import compare, compare_bfloat16
from test_quantised import dequantised, value_in
from test_training import LOOP, SETTINGS, compare_adapter, compare_logs
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

STEPS = {**LOOP, "gradient_accumulation_steps": 2}  # over nine rows: windows of 4, 4 and 1


@dataclass(frozen=True)
class Kind:
    quant_type: str
    nested: bool = False
    head: bool = False  # lm_head, too

    def __str__(self):
        return self.quant_type + " nested" * self.nested + " with lm_head" * self.head

    @property
    def bits(self):
        return 4 if self.quant_type in ("nf4", "fp4") else 8

    @property
    def flags(self):
        nested = {"double_quantization": True} if self.nested else {}
        head = {"quantize_lm_head": True} if self.head else {}
        return {"quantization_bit": self.bits, "quantization_type": self.quant_type, **nested, **head}

    def is_of(self, key, tensor):
        return is_quantised(key, tensor) or (self.head and key == "lm_head.weight")

    def values(self, weight):
        return dequantised(weight, self.quant_type, self.nested)


KINDS = {"nf4": Kind("nf4"), "nf4_nested": Kind("nf4", True), "fp4": Kind("fp4"), "fp4_nested": Kind("fp4", True),
         "int8": Kind("int8"), "fp8": Kind("fp8"), "nf4_head": Kind("nf4", head=True)}  # fmt: skip
NF4, NESTED, INT8 = KINDS["nf4"], KINDS["nf4_nested"], KINDS["int8"]

# Shapes with biases that are not zero, a tied head, W_pack, normalised heads; every kind at least once.
CASES = [("gqa", "nf4"), ("qwen2", "nf4_nested"), ("baichuan", "nf4_nested"), ("qwen2_tied", "fp4"), ("llama_bias", "fp4_nested"),
         ("baichuan2_7b", "int8"), ("qwen2", "int8"), ("gqa", "fp8"), ("qwen3", "nf4_head"), ("internlm2", "nf4")]  # fmt: skip

# Folders of other tools: the model, how a layer is written.
OTHERS = {
    "gptq": ("qwen2", partial(formats.gptq, group=16, symmetric=False, act_order=True)),
    "gptq 8 bits": ("baichuan", partial(formats.gptq, bits=8, group=16, v2=True)),
    "awq": ("gqa", partial(formats.awq, group=16)),
    "fp8 blocks": ("qwen2_tied", partial(formats.fp8_blocks, block=40)),
    "packed": ("llama_bias", partial(formats.pack_quantized, group=16, symmetric=False)),
    "float": ("qwen3", formats.float_quantized),
}


def is_quantised(key, tensor):
    """Linear layers but the head."""
    return tensor.dim() == 2 and not any(name in key for name in ("lm_head", "output", "embed", "embeddings"))


def plain_folder(source, folder, tensors):
    """The folder with other weights, all of them kept as they are."""
    shutil.copytree(source, folder)
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config.pop("quantization_config", None)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def plain(zoo, tmp_path_factory):
    """plain(name, kind): the model with the values that its quantised weights have, written once."""
    made = {}

    def make(name, kind):
        if (name, kind) not in made:
            values = {k: kind.values(t) if kind.is_of(k, t) else t for k, t in weights(zoo[name].folder).items()}
            folder = plain_folder(zoo[name].folder, tmp_path_factory.mktemp("plain") / name, values)
            made[name, kind] = ModelFolder(name, folder, zoo[name].is_baichuan)
        return made[name, kind]

    return make


def values_in(model, folder):
    """The folder's tensors with the values that bitsandbytes' layers of the model have."""
    values = weights(folder)
    for key, tensor in values.items():
        value = value_in(model.get_parameter(key))
        if value is not None:
            values[key] = value.to(tensor.dtype)
    return values


@pytest.fixture(scope="module")
def saved(zoo, tmp_path_factory):
    """saved(name, kind): a folder that transformers saved in bitsandbytes' format, and the values in it."""
    made = {}

    def make(name, kind):
        if (name, kind) not in made:
            root, source = tmp_path_factory.mktemp("saved"), zoo[name].folder
            four = {"load_in_4bit": True, "bnb_4bit_quant_type": kind.quant_type, "bnb_4bit_use_double_quant": kind.nested}
            config = BitsAndBytesConfig(**four if kind.bits == 4 else {"load_in_8bit": True})
            model = AutoModelForCausalLM.from_pretrained(source, quantization_config=config, dtype="auto", device_map="cpu")
            model.save_pretrained(root / "saved")
            for file in source.glob("tokenizer*"):
                shutil.copy(file, root / "saved")
            values = plain_folder(source, root / "plain", values_in(model, source))
            made[name, kind] = ModelFolder(name, root / "saved"), ModelFolder(name, values)
        return made[name, kind]

    return make


@pytest.fixture(scope="module")
def others(zoo, tmp_path_factory):
    """others(title): the zoo's model, a folder as another tool writes it, and the values in it."""
    made = {}

    def make(title):
        if title not in made:
            (name, write), root = OTHERS[title], tmp_path_factory.mktemp("others")
            source = zoo[name]
            tensors = weights(source.folder)
            layers = {k.removesuffix(".weight"): write(t) for k, t in tensors.items() if is_quantised(k, t)}
            folder = plain_folder(source.folder, root / "stored", {})
            kept = {k: t for k, t in tensors.items() if not is_quantised(k, t)}
            written = {f"{module}.{k}": t for module, layer in layers.items() for k, t in layer.tensors.items()}
            if title.startswith(("gptq", "awq")):  # whose writers give every layer a bias
                biases = {f"{module}.bias": torch.zeros(layer.shape[0]) for module, layer in layers.items()}
                written |= {k: t for k, t in biases.items() if k not in kept}
            save_file({k: t.contiguous() for k, t in (kept | written).items()}, folder / "model.safetensors", {"format": "pt"})
            config = json.loads((folder / "config.json").read_text())
            config["quantization_config"] = next(iter(layers.values())).config
            (folder / "config.json").write_text(json.dumps(config))
            values = {f"{module}.weight": t.contiguous() for module, t in formats.dequantise(folder, layers).items()}
            values = plain_folder(source.folder, root / "plain", kept | values)
            made[title] = source, folder, ModelFolder(title, values, source.is_baichuan)
        return made[title]

    return make


@pytest.fixture(scope="module")
def rows():
    return make_rows(9, seed=36)


@pytest.fixture(scope="module")
def data(rows, tmp_path_factory):
    return rows, rows.save_json_lines(tmp_path_factory.mktemp("quantised") / "rows.jsonl")


def loss(model, rows):
    return forward(model, rows, gradients=False).loss


def adapters_of(adapters, zoo, name):
    return adapters(name, target_modules=zoo[name].linear_and_head)


# The oracle's side alone ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_fewer_bits_matter(name, kind, zoo, plain, rows):
    assert abs(loss(plain(name, KINDS[kind]).load(), rows) / loss(zoo[name].load(), rows) - 1) > 1e-4, "a poor test"


@pytest.mark.parametrize("kind", ["nf4", "nf4_nested", "int8"])
def test_saved_values_are_those_of_a_quantised_weight(kind, plain, saved):
    folder, values = saved("qwen2", KINDS[kind])
    assert "quantization_config" in json.loads((folder.folder / "config.json").read_text())
    ours, theirs = weights(plain("qwen2", KINDS[kind]).folder), weights(values.folder)
    assert set(ours) == set(theirs) and all(torch.equal(ours[key], value) for key, value in theirs.items())


# Computing ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_every_linear_layer_adapted(name, kind, zoo, plain, adapters, rows, probe, check):
    adapter, kind = adapters_of(adapters, zoo, name), KINDS[kind]
    theirs = forward(open_adapter(plain(name, kind).load(), adapter), rows)
    ours = probe.forward(zoo[name].folder, adapter, rows, **kind.flags)
    compare(check, ours, theirs, f"{name}, {kind}")


@pytest.mark.parametrize(("name", "kind"), [("qwen2", "nf4"), ("qwen2_tied", "nf4_nested"), ("gqa", "int8"), ("gqa", "fp4_nested")])
def test_folder_of_transformers(name, kind, zoo, saved, adapters, rows, probe, check):
    """Without a flag."""
    folder, values = saved(name, KINDS[kind])
    adapter = adapters_of(adapters, zoo, name)
    theirs = forward(open_adapter(values.load(), adapter), rows)
    compare(check, probe.forward(folder.folder, adapter, rows), theirs, f"{name}, saved {kind}")


@pytest.mark.parametrize("title", OTHERS)
def test_folder_of_another_tool(title, others, zoo, adapters, rows, probe, check):
    base, folder, values = others(title)
    adapter = adapters_of(adapters, zoo, base.name)
    theirs = forward(open_adapter(values.load(), adapter), rows)
    assert abs(theirs.loss / loss(open_adapter(base.load(), adapter), rows) - 1) > 1e-5, "a poor test"
    compare(check, probe.forward(folder, adapter, rows, dtype="float32"), theirs, title)


@pytest.mark.parametrize(("name", "kind"), [("qwen2", "nf4"), ("baichuan", "nf4_nested"), ("qwen2", "int8")])
def test_bfloat16_is_as_good_as_plain_torch(name, kind, zoo, plain, adapters, rows, probe, check):
    name, kind = f"{name}_bf16", KINDS[kind]
    model = SimpleNamespace(name=f"{name}, {kind}", folder=zoo[name].folder, load=plain(name, kind).load)
    with_flags = SimpleNamespace(forward=partial(probe.forward, **kind.flags))
    compare_bfloat16(check, with_flags, model, adapters_of(adapters, zoo, name), rows)


@pytest.mark.parametrize("name", ["gqa_bf16", "baichuan_bf16"])
def test_bfloat16_folder_in_four_bits_in_float32(name, zoo, plain, adapters, rows, probe, check):
    """Values are rounded to bfloat16, as in bitsandbytes."""
    adapter = adapters_of(adapters, zoo, name)
    theirs = forward(open_adapter(plain(name, NESTED).load(), adapter), rows)
    ours = probe.forward(zoo[name].folder, adapter, rows, dtype="float32", **NESTED.flags)
    compare(check, ours, theirs, f"{name}, {NESTED}")


@pytest.mark.parametrize("name", ["qwen2", "baichuan", "tied", "gemma2"])
def test_bfloat16_folder_in_float32(name, zoo, adapters, rows, probe, tmp_path):
    """Its values, to the bit: kept in 16 bits, computed in 32."""
    wide = {key: tensor.bfloat16().float() for key, tensor in weights(zoo[name].folder).items()}
    narrow = {key: tensor.bfloat16() for key, tensor in wide.items()}
    adapter = adapters_of(adapters, zoo, name)
    found = [
        probe.forward(plain_folder(zoo[name].folder, tmp_path / kind, tensors), adapter, rows, dtype="float32")
        for kind, tensors in {"wide": wide, "narrow": narrow}.items()
    ]
    assert set(found[0]) == set(found[1])
    assert all(torch.equal(found[0][key], value) for key, value in found[1].items())


# Training -------------------------------------------------------------------------------------------------------------


def compare_ten_steps(check, lora_train, data, folder, adapter, values, where, flags):
    """The run of lora-train on the folder, and PEFT's on the values."""
    rows, path = data
    run = lora_train(
        model_name_or_path=folder, dataset=path, adapter_name_or_path=adapter, max_steps=10, **flags, **SETTINGS, **STEPS
    )
    model = open_adapter(values.load(), adapter)
    theirs = train(model, rows, windows(len(rows), 2, 2, 10), SETTINGS)
    compare_logs(check, run.log, theirs, where)
    compare_adapter(check, run, model, where, weights(folder).get("lm_head.weight"))
    return run


@pytest.mark.parametrize(("name", "kind"), CASES[1:-1])
def test_ten_steps(name, kind, zoo, plain, adapters, data, probe, lora_train, check):
    adapter, kind = adapters_of(adapters, zoo, name), KINDS[kind]
    folder, where = zoo[name].folder, f"{name}, {kind}"
    run = compare_ten_steps(check, lora_train, data, folder, adapter, plain(name, kind), where, kind.flags)

    # PEFT opens what was written, on the base as it was
    ours = probe.forward(folder, run.folder, data[0])["eval_loss"].item()
    opened = loss(open_adapter(zoo[name].load(), run.folder), data[0])
    check("our adapter in PEFT: float32 loss, relative", abs(ours / opened - 1), None, where)


@pytest.mark.parametrize("title", ["gptq", "fp8 blocks"])
def test_ten_steps_on_a_folder_of_another_tool(title, others, zoo, adapters, data, lora_train, check):
    base, folder, values = others(title)
    compare_ten_steps(check, lora_train, data, folder, adapters_of(adapters, zoo, base.name), values, title, {})


def test_resume(zoo, adapters, data, lora_train):
    """The same bytes after a stop; another kind of base is refused."""
    settings = {"model_name_or_path": zoo["qwen2"].folder, "dataset": data[1], "target_modules": "all-linear", "r": 4,
                "lora_dropout": 0.1, **SETTINGS, **STEPS, "lr_scheduler_type": "constant_with_warmup"}  # fmt: skip
    whole = lora_train(max_steps=4, **settings, **NESTED.flags)
    half = lora_train(max_steps=2, **settings, **NESTED.flags)
    again = {"output_dir": str(half.folder), "resume_from_checkpoint": "auto"}
    for other in (INT8.flags, NF4.flags, {}):
        refused = lora_train(code=7, max_steps=4, **settings, **other, **again)
        assert "quantization" in refused.text, refused.text
    rest = lora_train(max_steps=4, **settings, **NESTED.flags, **again)
    assert "resumed" in rest.text
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (rest.folder / name).read_bytes() == (whole.folder / name).read_bytes(), name


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_folder_of_transformers_trains_as_one_quantised_at_load(kind, zoo, saved, data, lora_train):
    """To the bit; also by bitsandbytes' words."""
    settings = {"dataset": data[1], "target_modules": "all-linear", "r": 4, "max_steps": 3, **SETTINGS, **STEPS}
    words = {"nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "int8": {"load_in_8bit": True}}[kind]
    ours = lora_train(model_name_or_path=zoo["qwen2"].folder, **settings, **words)
    theirs = lora_train(model_name_or_path=saved("qwen2", KINDS[kind])[0].folder, **settings)
    ours, theirs = ((run.folder / "adapter_model.safetensors").read_bytes() for run in (ours, theirs))
    assert ours == theirs


# Evaluating and generating --------------------------------------------------------------------------------------------


WORDS = [("nf4_nested", {"load_in_4bit": True, "bnb_4bit_use_double_quant": True}), ("int8", INT8.flags)]


@pytest.mark.parametrize(("kind", "words"), WORDS, ids=[w[0] for w in WORDS])
def test_evaluation_and_generation(kind, words, zoo, plain, saved, adapters, data, tmp_path, check):
    """Quantised at load and saved so: one loss, PEFT's with these values, and one text."""
    rows, path = data
    kind, adapter, texts = KINDS[kind], adapters("gqa"), set()
    expected = loss(open_adapter(plain("gqa", kind).load(), adapter), rows) / rows.label_count()
    for folder, flags in [(zoo["gqa"].folder, words), (saved("gqa", kind)[0].folder, {})]:
        model = command_line({"model_name_or_path": folder, "adapter_name_or_path": adapter, "dtype": "float32", **flags})
        run_program("lora-eval", *model, "--dataset", path, "--output", tmp_path / "eval.json")
        found = json.loads((tmp_path / "eval.json").read_text())["loss"]
        check("lora-eval: loss, relative", abs(found / expected - 1), None, f"{kind}, {folder.name}")
        text = ["--prompt", "What does metformin do?", "--max_new_tokens", 20]
        texts.add(run_program("lora-generate", *model, *text, text=False).stdout)
    assert len(texts) == 1, texts
