"""Adapter and model files: PEFT and transformers read ours, we read theirs, and the bytes are the reference library's."""

import json
import logging
import shutil
import subprocess
import sys
import warnings

import pytest
import torch
from conftest import ROOT, run
from huggingface_hub import ModelCard
from models import load, make_rows, tokenizer
from peft import LoraConfig, PeftModel, get_peft_model
from reference import forward, greedy, open_adapter, weights, worst
from safetensors import safe_open
from safetensors.torch import load_file, save_file

SHORT = {"max_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "logging_steps": 1, "shuffle": False}

CONFIGS = [
    ("W_pack", "baichuan", {"target_modules": ["W_pack"]}),
    ("q, k, v", "gqa", {"target_modules": ["q_proj", "k_proj", "v_proj"], "lora_dropout": 0.05}),
    ("all-linear", "gqa", {"target_modules": "all-linear"}),
    ("regex", "gqa", {"target_modules": r".*layers\.[02]\.self_attn\.(q|o)_proj"}),
    ("patterns", "gqa", {"target_modules": ["q_proj", "down_proj"], "rank_pattern": {"layers.1.self_attn.q_proj": 3},
                         "alpha_pattern": {"down_proj": 32}, "use_rslora": True}),
    ("layers", "gqa", {"target_modules": ["v_proj", "up_proj"], "layers_to_transform": [1, 2]}),
    ("exclude", "gqa", {"target_modules": ["v_proj", "up_proj"], "exclude_modules": ["layers.0.self_attn.v_proj"]}),
    ("bf16 base", "gqa_bf16", {"target_modules": ["v_proj"]}),
]  # fmt: skip


@pytest.mark.parametrize(("title", "name", "config"), CONFIGS, ids=[c[0] for c in CONFIGS])
def test_peft_reads_ours(title, name, config, zoo, rows, tmp_path, lora_train, probe, check, caplog):
    path = rows.save_json_lines(tmp_path / "rows.jsonl")
    config = {"r": 4, "lora_alpha": 8, **config}
    trained = lora_train(model_name_or_path=zoo[name].folder, dataset=path, **SHORT, **config)
    ours = trained.adapter()
    assert any("lora_B" in key and value.abs().max() > 0 for key, value in ours.items())

    # equal to PEFT's own in keys, shapes, dtype, header
    expected = tmp_path / "peft"
    fresh = get_peft_model(zoo[name].load(), LoraConfig(**config))
    fresh.save_pretrained(str(expected), save_embedding_layers=False)
    trainable, everything = fresh.get_nb_trainable_parameters()
    line = f"trainable params: {trainable:,} || all params: {everything:,} || trainable%: {100 * trainable / everything:.4f}"
    assert line in trained.text, trained.text
    theirs = load_file(expected / "adapter_model.safetensors")
    assert {k: (v.shape, v.dtype) for k, v in ours.items()} == {k: (v.shape, v.dtype) for k, v in theirs.items()}
    with safe_open(trained.folder / "adapter_model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    written = json.loads((trained.folder / "adapter_config.json").read_text())
    reference = json.loads((expected / "adapter_config.json").read_text())
    assert set(written) <= set(reference), "keys that PEFT does not know"
    for key in ("peft_type", "r", "lora_alpha", "lora_dropout", "bias", "use_rslora", "rank_pattern", "alpha_pattern",
                "layers_to_transform", "fan_in_fan_out", "use_dora", "inference_mode"):  # fmt: skip
        assert written.get(key) == reference[key], key
    assert written["task_type"] == "CAUSAL_LM"
    card = ModelCard.load(trained.folder / "README.md").data
    reference_card = ModelCard.load(expected / "README.md").data
    assert card.library_name == reference_card.library_name
    assert card.pipeline_tag == "text-generation"  # which PEFT writes where it is told the task
    assert card.base_model == str(zoo[name].folder)
    assert set(card.tags) >= {*reference_card.tags, "rankfold"}  # PEFT names fewer of a model that is not of transformers

    # loads without a warning, nothing missing, nothing left over
    with warnings.catch_warnings(), caplog.at_level(logging.WARNING):
        warnings.simplefilter("error")
        model = PeftModel.from_pretrained(zoo[name].load(), str(trained.folder))
        result = model.load_adapter(str(trained.folder), adapter_name="again")
    assert not caplog.records, caplog.text
    assert not result.missing_keys and not result.unexpected_keys
    model.set_adapter("default")

    # and means the same
    loss = forward(model, rows, gradients=False).loss
    dtype = "float32" if title != "bf16 base" else "bfloat16"
    again = probe.forward(zoo[name].folder, trained.folder, rows, dtype=dtype)["eval_loss"].item()
    check(f"our adapter in PEFT: {dtype} loss, relative", abs(again / loss - 1), None, title)


def test_new_adapter_starts_as_in_peft(zoo, rows, tmp_path, lora_train, probe):
    """A uniform in +-1/sqrt(in), B zero: learning rate 0 leaves the base's loss as it is, to the bit."""
    path = rows.save_json_lines(tmp_path / "rows.jsonl")
    settings = SHORT | {"learning_rate": 0.0}
    run_ = lora_train(model_name_or_path=zoo["gqa"].folder, dataset=path, target_modules="all-linear", r=8, **settings)
    for key, value in run_.adapter().items():
        if "lora_B" in key:
            assert not value.any()
        else:
            bound = value.shape[1] ** -0.5
            assert 0.9 * bound < value.abs().max() <= bound * (1 + 1e-6)
            assert abs(value.mean().item()) < 5 * bound / (3 * value.numel()) ** 0.5
    base = probe.forward(zoo["gqa"].folder, None, rows)
    adapted = probe.forward(zoo["gqa"].folder, run_.folder, rows)
    assert torch.equal(base["logits"], adapted["logits"])


UNSLOTH = (
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?(?:q_proj|v_proj).*?)|"
    r"(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense)\.(?:(?:q_proj|v_proj)))"
)
OLD = ("alpha_pattern", "rank_pattern", "use_dora", "use_rslora", "layers_pattern", "layers_to_transform", "revision",
       "auto_mapping", "init_lora_weights")  # fmt: skip
# What other tools leave in adapter_config.json, None: a key that the oldest of them did not know.
LENIENT = {
    "names that the model lacks": {"target_modules": ["q_proj", "v_proj", "query_key_value", "c_attn", "W_pack"]},
    "an embedding without tensors": {"target_modules": ["q_proj", "v_proj", "embed_tokens"]},
    "fan_in_fan_out": {"fan_in_fan_out": True},
    "old keys": {"enable_lora": "null", "merge_weights": False, **dict.fromkeys(OLD)},
    "an expression for many families": {"target_modules": UNSLOTH},
    "layers that are not there": {"layers_to_transform": [0, 1, 2, 9]},
    "exclusions that are not there": {"exclude_modules": ["vision_tower"]},
    "patterns that match nothing": {"rank_pattern": {"^q_proj": 9}, "alpha_pattern": {"k_proj": 3}},
    "the general pattern first": {"alpha_pattern": {"v_proj": 3, "layers.0.self_attn.v_proj": 30}},
    "the special pattern first": {"alpha_pattern": {"layers.0.self_attn.v_proj": 30, "v_proj": 3}},
}


def test_loads_what_peft_loads(zoo, adapters, rows, tmp_path, probe, check):
    good = adapters("gqa", target_modules=["q_proj", "v_proj"])
    losses = {}
    for title, changes in LENIENT.items():
        folder = tmp_path / title
        shutil.copytree(good, folder)
        config = json.loads((good / "adapter_config.json").read_text()) | changes
        config = {key: None if value == "null" else value for key, value in config.items() if value is not None}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        theirs = losses[title] = forward(open_adapter(zoo["gqa"].load(), folder), rows, gradients=False).loss
        ours = probe.forward(zoo["gqa"].folder, folder, rows)["eval_loss"].item()
        check("fp32 loss, relative", abs(ours / theirs - 1), None, title)
        run("lora-merge", "--model_name_or_path", zoo["gqa"].folder, "--adapter_name_or_path", folder,
            "--output_dir", tmp_path / (title + " merged"), "--verify", "--device", "cpu")  # fmt: skip
    assert abs(losses["the general pattern first"] / losses["the special pattern first"] - 1) > 1e-4


def test_bad_adapters_are_named(zoo, adapters, rows, tmp_path):
    good = adapters("gqa", target_modules=["q_proj"])
    tensors = load_file(good / "adapter_model.safetensors")
    key = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"

    def broken(name, tensors=tensors, **changes):
        folder = tmp_path / name
        folder.mkdir()
        save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
        config = json.loads((good / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(config | changes))
        return folder

    cases = {
        broken("missing", {k: v for k, v in tensors.items() if k != key}): "layers.1.self_attn.q_proj",
        broken("extra", tensors | {key.replace("q_proj", "v_proj"): tensors[key].clone()}): "v_proj",
        broken("rank", r=7): "q_proj",
        broken("dora", use_dora=True): "use_dora",
        broken("type", peft_type="IA3"): "IA3",
        broken("saved", modules_to_save=["lm_head"]): "lm_head.weight",
    }
    for folder, word in cases.items():
        done = run("rankfold-probe", "forward", zoo["gqa"].folder, folder, rows.save(tmp_path / "rows"), tmp_path / "o", code=2)
        assert word in done.stderr and len(done.stderr.strip().splitlines()) == 1, (folder.name, done.stderr)


def test_writes_the_reference_librarys_bytes(zoo, adapters, tmp_path, probe):
    tensors = {
        "b.weight": torch.randn(3, 5), "a": torch.arange(7, dtype=torch.int64), "half": torch.randn(3).half(),
        "brain": torch.randn(2, 2, 1).bfloat16(), "empty": torch.zeros(0, 4), "scalar": torch.tensor(2.5),
        "double": torch.randn(2).double(), "flag": torch.tensor([True, False, True]), "byte": torch.arange(5, dtype=torch.uint8),
        "short": torch.arange(3, dtype=torch.int16), "名": torch.randn(1), 'quote"\\': torch.randn(1),
    }  # fmt: skip
    save_file(tensors, tmp_path / "odd.safetensors", {"format": "pt"})
    files = [tmp_path / "odd.safetensors", adapters("gqa") / "adapter_model.safetensors"]
    files += [zoo[name].folder / "model.safetensors" for name in ("gqa_bf16", "llama_f16", "tied")]
    for file in files:
        assert probe.rewrite(file, tmp_path / "out.safetensors").read_bytes() == file.read_bytes(), file


def test_random_files_there_and_back(tmp_path, capsys):
    """1,000 files by the reference library, read by ours and written again: the same tensors, to the byte."""
    random = torch.Generator().manual_seed(1)
    draw = lambda below: int(torch.randint(below, (1,), generator=random))  # noqa: E731
    dtypes = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int32, torch.int16, torch.int8,
              torch.uint8, torch.bool]  # fmt: skip
    letters = "abcXYZ019._-/ é糖😀\"\\\n\x01"
    texts, count, lines = 1000, 0, []
    written = []
    for number in range(texts):
        tensors = {}
        for _ in range(draw(6)):
            name = "".join(letters[draw(len(letters))] for _ in range(draw(12)))
            shape = [draw(5) for _ in range(draw(5))]
            dtype = dtypes[draw(len(dtypes))]
            size = torch.Size(shape).numel() * dtype.itemsize
            data = torch.randint(2 if dtype == torch.bool else 256, (size,), dtype=torch.uint8, generator=random)
            tensors[name] = data.view(dtype).reshape(shape)
        metadata = {letters[: draw(len(letters))]: letters[draw(len(letters)) :] for _ in range(draw(3))}
        path = tmp_path / f"{number}.safetensors"
        save_file(tensors, path, metadata or None)
        written.append(({name: (t.dtype, t.shape, t.view(-1).view(torch.uint8)) for name, t in tensors.items()}, metadata))
        lines.append(f"model.safetensors {path}\n")
    (tmp_path / "list").write_text("".join(lines))
    answers = run("fuzz_safetensors", "--inputs", tmp_path / "list").stdout.splitlines()
    assert len(answers) == texts
    for (tensors, metadata), answer in zip(written, answers):
        assert answer.startswith("ok "), answer
        (tmp_path / "again").write_bytes(bytes.fromhex(answer[3:]))
        ours = load_file(tmp_path / "again")
        assert ours.keys() == tensors.keys()
        for name, (dtype, shape, data) in tensors.items():
            assert (ours[name].dtype, ours[name].shape) == (dtype, shape), name
            assert torch.equal(ours[name].view(-1).view(torch.uint8), data), name
            count += 1
        with safe_open(tmp_path / "again", "pt") as file:
            assert (file.metadata() or {}) == metadata
    with capsys.disabled():
        print(f"\nfiles of the reference library there and back: {texts}, with {count} tensors")


def test_trained_adapter_has_the_reference_librarys_bytes(zoo, rows, tmp_path, lora_train):
    path = rows.save_json_lines(tmp_path / "rows.jsonl")
    trained = lora_train(model_name_or_path=zoo["gqa"].folder, dataset=path, target_modules=["q_proj"], **SHORT)
    save_file(trained.adapter(), tmp_path / "again.safetensors", {"format": "pt"})
    ours = (trained.folder / "adapter_model.safetensors").read_bytes()
    assert ours == (tmp_path / "again.safetensors").read_bytes()


# lora-merge ------------------------------------------------------------------------------------------------------------


def merge(zoo, name, adapter, out, *flags):
    run("lora-merge", "--model_name_or_path", zoo[name].folder, "--adapter_name_or_path", adapter, "--output_dir", out, *flags)
    return weights(out)


MERGES = [
    ("gqa", {}),
    ("gqa", {"use_rslora": True, "rank_pattern": {"v_proj": 2}, "alpha_pattern": {"down_proj": 3}}),
    ("gqa", {"target_modules": ["lm_head", "o_proj"]}),
    ("sharded", {}),
    ("tied", {"target_modules": ["q_proj", "down_proj"]}),
    ("spelling_4", {}),
    ("baichuan", {"target_modules": ["W_pack"]}),
]


@pytest.mark.parametrize(("name", "config"), MERGES, ids=[f"{i}-{m[0]}" for i, m in enumerate(MERGES)])
def test_merge(name, config, zoo, adapters, rows, tmp_path, check):
    compare_merge(check, zoo, name, adapters(name, **config), rows, tmp_path / "merged")


def compare_merge(check, zoo, name, adapter, rows, out):
    """Every weight that lora-merge writes to the folder out, and the loss of that folder in transformers."""
    merged_model = open_adapter(zoo[name].load(), adapter).merge_and_unload()
    ours = merge(zoo, name, adapter, out, "--verify")
    base = weights(zoo[name].folder)
    assert set(ours) == set(base)
    theirs = merged_model.state_dict()
    changed = 0
    for key, value in ours.items():
        assert value.dtype == base[key].dtype
        changed += not torch.equal(value, base[key])
        largest = theirs[key].abs().max().item()
        check("lora-merge: weight, of its largest", worst(value, theirs[key]) / largest, None, f"{name}: {key}")
    assert changed == len(load_file(adapter / "adapter_model.safetensors")) // 2
    opened = forward(load(out), rows, gradients=False)
    expected = forward(open_adapter(zoo[name].load(), adapter), rows, gradients=False)
    check("lora-merge: loss in transformers, relative", abs(opened.loss / expected.loss - 1), None, name)


@pytest.mark.parametrize("name", ["gqa_bf16", "sharded_bf16", "baichuan_bf16"])
def test_merge_rounds_once(name, zoo, adapters, tmp_path, check):
    adapter = adapters(name)
    ours = merge(zoo, name, adapter, tmp_path / "merged")
    compare_rounded_once(check, ours, weights(zoo[name].folder), adapter, name)


def compare_rounded_once(check, ours, base, adapter, where):
    """bf16: never further from the exact sum than half a step, but for what fp32 itself rounds."""
    tensors = load_file(adapter / "adapter_model.safetensors")
    config = json.loads((adapter / "adapter_config.json").read_text())
    for key, value in ours.items():
        exact = base[key].double()
        prefix = "base_model.model." + key.removesuffix(".weight")
        if prefix + ".lora_A.weight" in tensors:
            a, b = (tensors[f"{prefix}.lora_{x}.weight"].double() for x in "AB")
            exact = exact + config["lora_alpha"] / config["r"] * (b @ a)
        assert value.dtype == torch.bfloat16
        half = torch.exp2(torch.floor(torch.log2(value.double().abs().clamp_min(1e-30))) - 8)
        excess = ((value.double() - exact).abs() - half).max().item() / exact.abs().max().item()
        check("lora-merge: bf16, beyond half a step, of the largest", max(excess, 0), 1e-6, f"{where}: {key}")


def test_merge_keeps_the_folder(zoo, adapters, tmp_path):
    """Sharding, config, tokenizer and whatever else lies there."""
    for name in ("sharded", "gqa"):
        (zoo[name].folder / "modeling_own.py").write_text("# remote code\n")
        (zoo[name].folder / "tokenizer_config.json").write_text('{"add_bos_token": true}\n')
    out = tmp_path / "merged"
    merge(zoo, "sharded", adapters("sharded"), out)
    base = zoo["sharded"].folder
    assert {p.name for p in out.iterdir()} == {p.name for p in base.iterdir()} | {"rankfold_merge.json"}
    for path in base.iterdir():
        if path.suffix != ".safetensors" and path.name != "model.safetensors.index.json":
            assert (out / path.name).read_bytes() == path.read_bytes(), path.name
    ours, theirs = (json.loads((f / "model.safetensors.index.json").read_text()) for f in (out, base))
    assert ours["weight_map"] == theirs["weight_map"]
    assert ours["metadata"]["total_size"] == theirs["metadata"]["total_size"]

    resharded = tmp_path / "resharded"
    tensors = merge(zoo, "gqa", adapters("gqa"), resharded, "--max_shard_size", "100KB")
    index = json.loads((resharded / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(tensors)
    files = sorted(resharded.glob("*.safetensors"))
    assert [f.name for f in files] == [f"model-{i + 1:05}-of-{len(files):05}.safetensors" for i in range(len(files))]
    assert len(files) > 2 and sorted(set(index["weight_map"].values())) == [f.name for f in files]
    held = [load_file(f) for f in files]
    for tensors in held:
        assert len(tensors) == 1 or sum(t.nbytes for t in tensors.values()) <= 100_000
    assert index["metadata"]["total_size"] == sum(t.nbytes for tensors in held for t in tensors.values())
    load(resharded)

    single = tmp_path / "single"
    merge(zoo, "sharded", adapters("sharded"), single, "--max_shard_size", "5GB")
    assert [f.name for f in single.glob("*.safetensors*")] == ["model.safetensors"]


def test_merge_to_another_dtype(zoo, adapters, tmp_path):
    out = tmp_path / "merged"
    tensors = merge(zoo, "gqa", adapters("gqa"), out, "--dtype", "bfloat16")
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16}
    config = json.loads((out / "config.json").read_text())
    assert config.get("dtype", config.get("torch_dtype")) == "bfloat16"
    exact = open_adapter(zoo["gqa"].load(), adapters("gqa")).merge_and_unload().state_dict()
    for key, value in tensors.items():
        assert worst(value, exact[key]) <= exact[key].abs().max().item() * 2**-8


# Generation ------------------------------------------------------------------------------------------------------------

PROMPTS = ["What does metformin do?", "二甲双胍可以", "a", "The doctor asked the patient about"]


def their_greedy(model, ids, count, eos):
    if not hasattr(model, "generate"):
        return greedy(model, ids, count, eos)
    tensor = torch.tensor([ids])
    out = model.generate(tensor, attention_mask=torch.ones_like(tensor), do_sample=False, max_new_tokens=count,
                         eos_token_id=list(eos), pad_token_id=0)[0].tolist()[len(ids):]  # fmt: skip
    return out[:-1] if out and out[-1] in eos else out


@pytest.mark.parametrize("name", ["gqa", "tied", "head_dim", "linear_rope", "baichuan"])
def test_greedy(name, zoo, adapters, probe):
    prompts = make_rows(6, seed=21, shortest=1, longest=20)
    for adapter in (None, adapters(name)):
        model = open_adapter(zoo[name].load(), adapter).merge_and_unload() if adapter else zoo[name].load()
        theirs = [their_greedy(model.eval(), ids, 24, {2}) for ids in prompts.ids]
        assert probe.generate(zoo[name].folder, adapter, prompts, max_new_tokens=24, dtype="float32") == theirs


def test_greedy_stops_at_any_eos(zoo, probe, tmp_path):
    """generation_config.json's list of ids wins over config.json."""
    prompts = make_rows(4, seed=22, shortest=3, longest=9)
    model = zoo["gqa"].load().eval()
    free = [their_greedy(model, ids, 20, {2}) for ids in prompts.ids]
    eos = {free[0][5], free[1][7], 2}
    folder = tmp_path / "model"
    shutil.copytree(zoo["gqa"].folder, folder)
    config = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps(config | {"eos_token_id": sorted(eos)}))
    theirs = [their_greedy(model, ids, 20, eos) for ids in prompts.ids]
    assert len(theirs[0]) <= 5 and len(theirs[1]) <= 7
    assert probe.generate(folder, None, prompts, max_new_tokens=20) == theirs


@pytest.mark.parametrize("name", ["gqa", "baichuan"])
def test_lora_generate(name, zoo, adapters, tmp_path):
    pieces = tokenizer(zoo[name].folder)
    bos = [] if zoo[name].is_baichuan else [1]
    adapter = adapters(name)
    model = open_adapter(zoo[name].load(), adapter).merge_and_unload().eval()
    for raw, prompt in [(True, PROMPTS[0]), (False, PROMPTS[0]), (True, PROMPTS[1]), (True, PROMPTS[3])]:
        ids = bos + pieces.encode(prompt if raw else prompt + "\n")
        new = their_greedy(model, ids, 20, {2})
        done = run(
            "lora-generate", "--model_name_or_path", zoo[name].folder, "--adapter_name_or_path", adapter,
            "--prompt", prompt, "--max_new_tokens", 20, "--dtype", "float32", *(["--raw"] if raw else []), text=False,
        )  # fmt: skip
        shown = pieces.decode([id for id in new if id != pieces.unk_id()])  # a special token, as in transformers
        assert done.stdout.decode("utf-8", "replace").removesuffix("\n") == shown, (prompt, new)


# Pickles ---------------------------------------------------------------------------------------------------------------


def test_pickled_weights_are_refused_and_converted(zoo, rows, tmp_path, lora_train, probe):
    data = rows.save_json_lines(tmp_path / "rows.jsonl")
    refused = lora_train(model_name_or_path=zoo["pickled"].folder, dataset=data, target_modules=["q_proj"], code=2)
    assert "convert_bin.py" in refused.text and str(zoo["pickled"].folder) in refused.text, refused.text
    assert not refused.folder.exists()
    script = ROOT / "examples" / "convert_bin.py"
    if not script.exists():
        pytest.skip("examples/convert_bin.py is not there yet")
    out = tmp_path / "converted"
    subprocess.run([sys.executable, script, zoo["pickled"].folder, out], check=True, capture_output=True)
    theirs = weights(zoo["gqa"].folder)
    ours = weights(out)
    assert set(ours) == set(theirs) and all(torch.equal(ours[k], theirs[k]) for k in theirs)
    a, b = (probe.forward(folder, None, rows)["logits"] for folder in (out, zoo["gqa"].folder))
    assert torch.equal(a, b)
