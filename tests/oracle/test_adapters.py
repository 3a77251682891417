"""Adapters of others: whatever PEFT writes beside plain updates is loaded, trained on, saved and merged as PEFT does it."""

import json
import re
import shutil

import pytest
import torch
from conftest import run
from models import load
from peft import LoraConfig, get_peft_model
from reference import PREFIX, forward, open_adapter, peft_key, train, windows, worst
from safetensors.torch import load_file, save_file
from test_training import LOOP, SETTINGS, compare_logs, data  # noqa: F401

# title: model, config, whether PEFT is told to save embeddings that are not those of the base
CASES = {
    "embedding and head": ("gqa", {"target_modules": ["down_proj", "embed_tokens", "lm_head"], "use_rslora": True}, False),
    "expression for the embedding": ("llama", {"target_modules": r".*(embed_tokens|layers\.1\.mlp\.up_proj)"}, False),
    "whole embedding and head": ("gqa", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]}, False),
    "whole norms": ("llama", {"target_modules": ["q_proj"], "modules_to_save": ["norm"]}, False),
    "whole norms of 1 + weight": ("gemma2", {"target_modules": ["q_proj"], "modules_to_save": ["post_attention_layernorm"]}, False),
    "projections": ("qwen2", {"target_modules": ["k_proj", "gate_proj"], "modules_to_save": ["q_proj", "up_proj"]}, False),
    "biases of adapted modules": ("qwen2", {"target_modules": ["q_proj", "v_proj"], "bias": "lora_only"}, False),
    "all biases": ("llama_bias", {"target_modules": ["q_proj", "down_proj"], "bias": "all"}, False),
    "whole head of a tied model": ("qwen2_tied", {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, False),
    "whole embedding of a tied model": ("tied", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, False),
    "saved embeddings": ("gqa", {"target_modules": ["q_proj"]}, True),
    "saved embeddings under updates": ("gqa", {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}, True),
    "saved embeddings of a tied model": ("tied", {"target_modules": ["q_proj"]}, True),
}  # fmt: skip


@torch.no_grad()
def make(zoo, name, config, changes_embeddings, folder, dtype=torch.float32):
    """A folder that PEFT has written, nothing of it as a new adapter's."""
    torch.manual_seed(len(str(config)))
    base = zoo[name].load(dtype)
    generator = torch.Generator().manual_seed(len(str(config)))
    add_noise = lambda p, scale: p.add_(scale * torch.randn(p.shape, generator=generator))  # noqa: E731
    if changes_embeddings:
        add_noise(base.get_input_embeddings().weight, 0.1)
        if not base.config.tie_word_embeddings:
            add_noise(base.get_output_embeddings().weight, 0.1)
    model = get_peft_model(base, LoraConfig(r=5, lora_alpha=12, **config))
    for parameter, p in model.named_parameters():
        if p.requires_grad:
            add_noise(p, 0.04 if "lora" in parameter else 0.08)
    model.save_pretrained(str(folder), save_embedding_layers=True if changes_embeddings else "auto")
    return folder


@pytest.fixture(scope="module", params=list(CASES))
def case(request, zoo, tmp_path_factory):
    name, config, changes_embeddings = CASES[request.param]
    return request.param, zoo[name], make(zoo, name, config, changes_embeddings, tmp_path_factory.mktemp("adapter"))


def compare_forward(check, ours, theirs, where):
    check("fp32 logits, absolute", worst(ours["logits"], theirs.logits), None, where)
    check("fp32 loss, relative", abs(ours["eval_loss"].item() / theirs.loss - 1), None, where)


def test_computes_and_trains(case, data, rows, probe, lora_train, check, tmp_path):  # noqa: F811
    title, base, folder = case
    model = open_adapter(base.load(), folder)
    theirs = forward(model, rows)
    assert abs(theirs.loss / forward(base.load(), rows, gradients=False).loss - 1) > 2e-4, "does nothing: a poor test"
    ours = probe.forward(base.folder, folder, rows, dtype="float32")
    compare_forward(check, ours, theirs, title)
    gradients = {key.removeprefix("grad."): value for key, value in ours.items() if key.startswith("grad.")}
    assert set(gradients) == set(theirs.gradients)
    for key, value in theirs.gradients.items():
        error = worst(gradients[key], value) / value.abs().max().item()
        check("fp32 LoRA gradient, of the largest entry", error, None, f"{title}: {key}")

    model.zero_grad()
    before = {peft_key(n): p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    settings = SETTINGS | {"warmup_steps": 1}
    trained = lora_train(model_name_or_path=base.folder, dataset=data[1], adapter_name_or_path=folder, max_steps=3,
                         **settings, **LOOP)  # fmt: skip
    theirs = train(model, data[0], windows(len(data[0]), 2, 4, 3), settings)
    compare_logs(check, trained.log, theirs, title)
    model.save_pretrained(str(tmp_path / "theirs"), save_embedding_layers=True if CASES[title][2] else "auto")
    expected, found = load_file(tmp_path / "theirs" / "adapter_model.safetensors"), trained.adapter()
    if title == "saved embeddings of a tied model":  # one of the two says it all
        expected.pop(PREFIX + "lm_head.weight", None), found.pop(PREFIX + "lm_head.weight", None)
    assert set(found) == set(expected)
    for key, value in expected.items():
        assert found[key].dtype == torch.float32
        if key not in before:
            assert torch.equal(found[key], value), key
        elif ".lora_" in key:
            error = worst(found[key], value) / value.abs().max().item()
            check("training: adapter, of its largest", error, None, f"{title}: {key}")
        else:  # by norms: AdamW moves an element whose gradient is all rounding as far as any other
            error = (found[key] - value).norm() / (value - before[key]).norm()
            check("training in full: weight, of its change", error.item(), None, f"{title}: {key}")

    written, reference = (json.loads((f / "adapter_config.json").read_text()) for f in (trained.folder, folder))
    for key in ("bias", "modules_to_save", "use_rslora", "r", "lora_alpha"):
        assert written[key] == reference[key], key
    again = forward(open_adapter(base.load(), trained.folder), rows, gradients=False)
    compare_forward(check, probe.forward(base.folder, trained.folder, rows, dtype="float32"), again, f"{title}, trained")


def test_merges(case, rows, tmp_path, check):
    title, base, folder = case
    out = tmp_path / "merged"
    run("lora-merge", "--model_name_or_path", base.folder, "--adapter_name_or_path", folder, "--output_dir", out,
        "--verify", "--device", "cpu")  # fmt: skip
    theirs = forward(open_adapter(base.load(), folder).merge_and_unload(), rows, gradients=False)
    ours = forward(load(out), rows, gradients=False)
    check("fp32 logits, absolute", worst(ours.logits, theirs.logits), None, f"{title}, merged")
    check("lora-merge: loss in transformers, relative", abs(ours.loss / theirs.loss - 1), None, title)


def test_in_bfloat16(zoo, rows, tmp_path, probe, check):
    """Whole tensors and saved weights in the base's dtype."""
    config = {"target_modules": ["q_proj", "embed_tokens"], "modules_to_save": ["lm_head", "norm"]}
    folder = make(zoo, "gqa_bf16", config, False, tmp_path / "adapter", torch.bfloat16)
    assert load_file(folder / "adapter_model.safetensors")[PREFIX + "lm_head.weight"].dtype == torch.bfloat16
    theirs = forward(open_adapter(zoo["gqa_bf16"].load(torch.bfloat16), folder), rows, gradients=False)
    ours = probe.forward(zoo["gqa_bf16"].folder, folder, rows, dtype="bfloat16")
    check("our adapter in PEFT: bfloat16 loss, relative", abs(ours["eval_loss"].item() / theirs.loss - 1), None, "whole")


NEW = [
    ("gqa", {"target_modules": ["q_proj", "embed_tokens"], "modules_to_save": ["lm_head", "norm"]}),
    ("qwen2", {"target_modules": ["q_proj", "o_proj"], "bias": "lora_only"}),
    ("llama_bias", {"target_modules": ["q_proj"], "bias": "all"}),
]


# One of each kind of tensor that a checkpoint holds; what is trained of them is the same in all.
RESUMED = ["embedding and head", "whole embedding and head", "whole norms", "all biases", "saved embeddings"]


@pytest.mark.parametrize("case", RESUMED, indirect=True, scope="module")
def test_runs_from_them_are_resumed_by_the_same_command(case, data, lora_train, tmp_path):  # noqa: F811
    """Also where PEFT's folder is gone, and with tensors that do not train: the same bytes as of an unbroken run."""
    title, base, folder = case
    gone = shutil.copytree(folder, tmp_path / "gone")
    settings = {"model_name_or_path": base.folder, "dataset": data[1], "adapter_name_or_path": gone, **SETTINGS, **LOOP,
                "lr_scheduler_type": "constant_with_warmup", "resume_from_checkpoint": "auto"}  # fmt: skip
    whole = lora_train(max_steps=4, **settings)
    half = lora_train(max_steps=2, **settings)
    shutil.rmtree(gone)
    rest = lora_train(max_steps=4, output_dir=str(half.folder), **settings)
    assert "is where the run began, and is gone" in rest.text and "at step 2" in rest.text, rest.text
    for name in ("adapter_config.json", "adapter_model.safetensors", "checkpoint-4/optimizer.safetensors"):
        assert (rest.folder / name).read_bytes() == (whole.folder / name).read_bytes(), f"{title}: {name}"


@pytest.mark.parametrize(("name", "config"), NEW, ids=[new[0] for new in NEW])
def test_new_ones_are_as_pefts(name, config, zoo, data, lora_train, tmp_path):  # noqa: F811
    """The same parameters, keys and numbers of parameters; a run that is resumed gives the same bytes."""
    settings = {"model_name_or_path": zoo[name].folder, "dataset": data[1], "r": 4, **config, **SETTINGS, **LOOP,
                "lr_scheduler_type": "constant_with_warmup"}  # fmt: skip
    whole = lora_train(max_steps=4, **settings)
    fresh = get_peft_model(zoo[name].load(), LoraConfig(r=4, **config))
    trainable, everything = fresh.get_nb_trainable_parameters()
    line = f"trainable params: {trainable:,} || all params: {everything:,} ||"
    assert line in whole.text, whole.text
    fresh.save_pretrained(str(tmp_path / "peft"))
    theirs = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    assert {k: v.shape for k, v in whole.adapter().items()} == {k: v.shape for k, v in theirs.items()}
    base = dict(zoo[name].load().named_parameters())
    still = lora_train(max_steps=1, **(settings | {"learning_rate": 0.0})).adapter()
    for key, value in still.items():
        if "lora_B" in key or "lora_embedding_A" in key:
            assert not value.any(), key
        elif "lora_embedding_B" in key:
            assert abs(value.std().item() - 1) < 0.1 and abs(value.mean().item()) < 0.1
        elif "lora_A" not in key:
            assert torch.equal(value, base[key.removeprefix(PREFIX).replace(".base_layer", "")]), key

    half = lora_train(max_steps=2, **settings)
    rest = lora_train(max_steps=4, output_dir=str(half.folder), resume_from_checkpoint="auto", **settings)
    assert "resumed" in rest.text
    ours, expected = rest.adapter(), whole.adapter()
    assert all(torch.equal(ours[key], expected[key]) for key in expected)
    other = {"bias": "none"} if "bias" in config else {"modules_to_save": ["lm_head"]}
    settings = settings | other | {"output_dir": str(half.folder), "max_steps": 6}
    refused = lora_train(code=7, resume_from_checkpoint="auto", **settings)
    assert re.search("bias|modules_to_save", refused.text), refused.text


def rewritten(folder, to, change):
    """The adapter with other tensors."""
    shutil.copytree(folder, to)
    save_file(change(load_file(folder / "adapter_model.safetensors")), to / "adapter_model.safetensors", {"format": "pt"})
    return to


def named(key, name):
    """As a state dict has it."""
    key = re.sub(r"(lora_[AB])\.weight$", rf"\1.{name}.weight", re.sub(r"(lora_embedding_[AB])$", rf"\1.{name}", key))
    return re.sub(r"lm_head\.weight$", f"lm_head.modules_to_save.{name}.weight", key)


def test_names_of_adapters_in_keys(zoo, rows, tmp_path, probe, check):
    config = {"target_modules": ["q_proj", "embed_tokens"], "modules_to_save": ["lm_head"]}
    good = make(zoo, "gqa", config, False, tmp_path / "good")
    expected = probe.forward(zoo["gqa"].folder, good, rows)["logits"]
    for name in ("default", "medical"):
        folder = rewritten(good, tmp_path / name, lambda tensors: {named(k, name): v for k, v in tensors.items()})  # noqa: B023
        assert torch.equal(probe.forward(zoo["gqa"].folder, folder, rows)["logits"], expected)
    plain = make(zoo, "gqa", {"target_modules": ["q_proj"]}, False, tmp_path / "plain")
    raw = rewritten(plain, tmp_path / "raw", lambda tensors: {named(k, "default"): v for k, v in tensors.items()})
    theirs = forward(open_adapter(zoo["gqa"].load(), raw), rows, gradients=False)
    compare_forward(check, probe.forward(zoo["gqa"].folder, raw, rows), theirs, "keys with a name")


def test_biases_that_earlier_peft_did_not_save(zoo, rows, tmp_path, probe, check):
    saved = make(zoo, "qwen2", {"target_modules": ["q_proj"], "bias": "lora_only"}, False, tmp_path / "saved")
    folder = rewritten(saved, tmp_path / "adapter", lambda t: {k: v for k, v in t.items() if not k.endswith(".bias")})
    base = zoo["qwen2"]
    theirs = forward(open_adapter(base.load(), folder), rows, gradients=False)
    compare_forward(check, probe.forward(base.folder, folder, rows), theirs, "biases that were not saved")
    done = run("lora-merge", "--model_name_or_path", base.folder, "--adapter_name_or_path", folder, "--output_dir",
               tmp_path / "merged")  # fmt: skip
    assert "holds no bias" in done.stdout, done.stdout
    merged = forward(load(tmp_path / "merged"), rows, gradients=False)
    check("lora-merge: loss in transformers, relative", abs(merged.loss / theirs.loss - 1), None, "biases not saved")


def test_checkpoint_of_another_trainer(zoo, data, rows, tmp_path, lora_train, probe):  # noqa: F811
    """Its adapter is one to start from; its state is not."""
    folder = make(zoo, "gqa", {"target_modules": ["q_proj"]}, False, tmp_path / "checkpoint-40")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        torch.save({"state": {}}, folder / name)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": 40, "log_history": []}))
    assert probe.forward(zoo["gqa"].folder, folder, rows)["logits"].isfinite().all()
    settings = {"model_name_or_path": zoo["gqa"].folder, "dataset": data[1], "max_steps": 1, "target_modules": ["q_proj"]}
    assert lora_train(**(settings | {"adapter_name_or_path": folder})).log is not None
    refused = lora_train(code=2, resume_from_checkpoint=folder, **settings)
    assert "another trainer" in refused.text and "adapter_name_or_path" in refused.text


def test_refusals_help(zoo, data, rows, tmp_path, lora_train, probe, check):  # noqa: F811
    """One line: the file, the tensor, what is expected, what is there, what to do."""
    config = {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}
    good = make(zoo, "gqa", config, False, tmp_path / "good")
    head, q = PREFIX + "lm_head.weight", PREFIX + "model.layers.0.self_attn.q_proj.lora_A"
    count = load_file(good / "adapter_model.safetensors")[head].shape[0]

    def grown(tensors):
        return tensors | {head: torch.cat([tensors[head], tensors[head][:1]])}

    def two(tensors):
        return tensors | {f"{q}.second.weight": tensors.pop(f"{q}.weight")}

    cases = {
        "grown": (grown, f"the adapter brings embeddings of {count + 1} rows, the base has {count}"),
        "two names": (two, "'second'"),
        "unknown": (lambda t: t | {PREFIX + "model.nrom.weight": torch.ones(64)}, "did you mean 'model.norm.weight'?"),
        "missing": (lambda t: {k: v for k, v in t.items() if k != head}, "lm_head.weight' is missing"),
        "without the prefix": (lambda t: {k.removeprefix(PREFIX): v for k, v in t.items()}, "expected base_model.model."),
    }
    for title, (change, words) in cases.items():
        folder = rewritten(good, tmp_path / title, change)
        base, out = zoo["gqa"].folder, tmp_path / "out"
        for done in (
            run("rankfold-probe", "forward", base, folder, rows.save(tmp_path / "rows"), out, code=2),
            run("lora-merge", "--model_name_or_path", base, "--adapter_name_or_path", folder, "--output_dir", out, code=2),
        ):
            assert words in done.stderr and str(folder) in done.stderr, (title, done.stderr)
            assert len(done.stderr.strip().splitlines()) == 1, done.stderr

    # One of two tied weights: what PEFT computes is computed; no merge could hold it, so it is neither trained nor merged.
    for name in ("gemma", "tied"):
        tied = make(zoo, name, {"target_modules": ["q_proj", "embed_tokens"]}, False, tmp_path / name)
        theirs = forward(open_adapter(zoo[name].load(), tied), rows, gradients=False)
        compare_forward(check, probe.forward(zoo[name].folder, tied, rows), theirs, f"an update of {name}'s embedding")
    settings = {"model_name_or_path": zoo["tied"].folder, "dataset": data[1], "max_steps": 1, "adapter_name_or_path": tied}
    done = run("lora-merge", "--model_name_or_path", zoo["tied"].folder, "--adapter_name_or_path", tied, "--output_dir",
               tmp_path / "out", code=2)  # fmt: skip
    for text in (done.stderr, lora_train(code=2, **settings).text):
        assert "tie_word_embeddings" in text and "embed_tokens" in text, text


def test_weights_of_an_adapter_are_not_lost_by_a_resume(zoo, data, tmp_path, lora_train):  # noqa: F811
    folder = make(zoo, "gqa", {"target_modules": ["q_proj"]}, True, tmp_path / "adapter")
    settings = {"model_name_or_path": zoo["gqa"].folder, "dataset": data[1], "target_modules": ["q_proj"], "r": 5,
                "lora_alpha": 12, "max_steps": 2, "output_dir": str(tmp_path / "out")}  # fmt: skip
    lora_train(adapter_name_or_path=folder, **settings)
    refused = lora_train(code=7, resume_from_checkpoint="auto", **(settings | {"max_steps": 4}))
    assert "weights of its own that do not train" in refused.text and "adapter_name_or_path" in refused.text, refused.text
    rest = lora_train(resume_from_checkpoint="auto", adapter_name_or_path=folder, **(settings | {"max_steps": 4}))
    assert "at step 2" in rest.text and PREFIX + "lm_head.weight" in rest.adapter(), rest.text
    on = lora_train(adapter_name_or_path=tmp_path / "out" / "checkpoint-2", **(settings | {"output_dir": str(tmp_path / "on")}))
    assert PREFIX + "lm_head.weight" in on.adapter()
