"""Each family of families.py: what the other files test on LLaMA and Baichuan-7B, and that what is special matters."""

import json
import shutil

import pytest
import torch
from conftest import run
from families import FAMILIES, LONGEST, VARIANTS
from models import load, make_rows
from reference import forget_lengths, forward, greedy, open_adapter, train, windows
from test_files import compare_merge
from test_forward import FULL_GRADIENT, compare, compare_bfloat16
from test_training import LOOP, SETTINGS, compare_adapter, compare_full, compare_logs

every_family = pytest.mark.parametrize("name", FAMILIES)
STEPS = {**LOOP, "gradient_accumulation_steps": 2}  # over nine rows: windows of 4, 4 and 1


@pytest.fixture(scope="module")
def rows():
    """Longer than windows and original lengths; also shorter ones."""
    rows = make_rows(9, seed=36, longest=LONGEST)
    lengths = [len(ids) for ids in rows.ids]
    assert max(lengths) >= LONGEST - 1 and min(lengths) < 7
    return rows


@pytest.fixture(scope="module")
def data(rows, tmp_path_factory):
    return rows, rows.save_json_lines(tmp_path_factory.mktemp("families") / "rows.jsonl")


@pytest.fixture
def adapter(name, zoo, adapters):
    """On every linear layer, and on the head where it is a layer of its own."""
    return adapters(name, target_modules=zoo[name].linear_and_head)


def loss(model, rows):
    return forward(model, rows, gradients=False).loss


def generated(model, ids, count, eos):
    """greedy() by transformers, which caches keys."""
    forget_lengths(model)
    out = model.generate(
        torch.tensor([ids]), max_new_tokens=count, do_sample=False, eos_token_id=list(eos), pad_token_id=0
    )[0, len(ids):].tolist()  # fmt: skip
    return out[: out.index(2)] if 2 in out else out


def variant(zoo, title, folder):
    name, change, _ = VARIANTS[title]
    shutil.copytree(zoo[name].folder, folder)
    change(folder)
    return folder


# The oracle's side alone --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_special_matters(name, zoo, rows):
    whole = loss(zoo[name].load(), rows)
    for what, take_away in FAMILIES[name].special.items():
        model = zoo[name].load()
        take_away(model)
        assert abs(loss(model, rows) / whole - 1) > 1e-3, f"{name} without {what} has the same loss: a poor test"


@pytest.mark.parametrize("title", VARIANTS)
def test_variant_matters(title, zoo, rows, tmp_path):
    name, _, same = VARIANTS[title]
    change = abs(loss(load(variant(zoo, title, tmp_path / "model")), rows) / loss(zoo[name].load(), rows) - 1)
    assert change == 0 if same else change > 1e-3, change


def test_every_class_has_a_family(zoo, tmp_path):
    """The classes that Rankfold names where it does not know one."""
    shutil.copytree(zoo["llama"].folder, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text()) | {"architectures": ["Nobody"]}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    done = run("lora-generate", "--model_name_or_path", tmp_path / "model", "--prompt", "x", code=2)
    named = set(done.stderr.strip().split("supported are ")[1].split(", "))
    folders = [zoo[name].folder for name in ["llama", "baichuan", *FAMILIES]]
    assert named == {json.loads((folder / "config.json").read_text())["architectures"][0] for folder in folders}


# Rankfold -----------------------------------------------------------------------------------------------------------


@every_family
def test_base_and_its_gradients(name, zoo, rows, probe, check):
    theirs = forward(zoo[name].load(), rows)
    compare(check, probe.forward(zoo[name].folder, "full", rows), theirs, f"{name} in full", FULL_GRADIENT)


@pytest.mark.parametrize("title", VARIANTS)
def test_variant(title, zoo, rows, tmp_path, probe, check):
    folder = variant(zoo, title, tmp_path / "model")
    compare(check, probe.forward(folder, None, rows), forward(load(folder), rows, gradients=False), title)


@every_family
def test_every_linear_layer_adapted(name, adapter, zoo, rows, probe, check):
    theirs = forward(open_adapter(zoo[name].load(), adapter), rows)
    compare(check, probe.forward(zoo[name].folder, adapter, rows), theirs, f"{name} + every linear layer")


@every_family
def test_bfloat16_is_as_good_as_plain_torch(name, zoo, rows, adapters, probe, check):
    model = zoo[f"{name}_bf16"]
    adapter = adapters(model.name, target_modules=model.linear_and_head)
    compare_bfloat16(check, probe, model, adapter, rows)


@every_family
def test_ten_steps(name, adapter, zoo, data, probe, lora_train, check):
    rows, path = data
    run = lora_train(
        model_name_or_path=zoo[name].folder, dataset=path, adapter_name_or_path=adapter, max_steps=10,
        **SETTINGS, **STEPS,
    )  # fmt: skip
    model = open_adapter(zoo[name].load(), adapter)
    theirs = train(model, rows, windows(len(rows), 2, 2, 10), SETTINGS)
    compare_logs(check, run.log, theirs, name)
    compare_adapter(check, run, model, name)

    # PEFT opens what was written
    ours = probe.forward(zoo[name].folder, run.folder, rows)["eval_loss"].item()
    opened = loss(open_adapter(zoo[name].load(), run.folder), rows)
    check("our adapter in PEFT: float32 loss, relative", abs(ours / opened - 1), None, name)


@pytest.mark.parametrize("name", ["baichuan2_7b", "gemma2", "gemma3", "llama_bias", "qwen2_tied", "qwen3"])
def test_full_steps(name, zoo, data, lora_train, check):
    """Norms and biases learn but do not decay."""
    compare_full(check, zoo[name], *data, windows(len(data[0]), 2, 2, 5), STEPS, lora_train)


@every_family
def test_merge(name, adapter, zoo, rows, tmp_path, check):
    compare_merge(check, zoo, name, adapter, rows, tmp_path / "merged")


@every_family
def test_greedy(name, adapter, zoo, probe):
    """A forward over the whole row for each new id. Rope of the kind "dynamic" turns a key by the length of the row when
    the key came and leaves it so, as transformers does: there its own generate() is asked."""
    prompts = make_rows(4, seed=21, shortest=1, longest=20)
    model = open_adapter(zoo[name].load(), adapter).merge_and_unload().eval()
    decode = generated if name == "dynamic" else greedy
    theirs = [decode(model, ids, 16, {2}) for ids in prompts.ids]
    assert probe.generate(zoo[name].folder, adapter, prompts, max_new_tokens=16, dtype="float32") == theirs
