"""Ten optimizer steps of the real lora-train against PEFT and a plain loop over torch's AdamW."""

import json

import pytest
import torch
from conftest import run as run_program
from models import Rows, make_rows
from reference import Masks, open_adapter, peft_key, row_loss, train, weights, windows, worst

# Batch 2 x accumulation 4 over 21 rows: windows of 8, 8 and 5 rows, the last with a micro-batch of one row.
SETTINGS = {
    "learning_rate": 3e-3, "lr_scheduler_type": "linear", "warmup_steps": 3, "weight_decay": 0.1, "max_grad_norm": 0.4,
    "adam_beta1": 0.9, "adam_beta2": 0.98, "adam_epsilon": 1e-8,
}  # fmt: skip
LOOP = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "shuffle": False, "logging_steps": 1, "seed": 7}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    rows = make_rows(21, seed=3)
    return rows, rows.save_json_lines(tmp_path_factory.mktemp("data") / "rows.jsonl")


def compare_logs(check, ours, theirs, where):
    assert [row["step"] for row in ours] == list(range(1, len(theirs) + 1))
    assert any(row["grad_norm"] > 1.2 * SETTINGS["max_grad_norm"] for row in theirs), "clipping never bites: a poor test"
    assert abs(theirs[0]["loss"] - theirs[-1]["loss"]) > 0.01, "nothing was learnt: a poor test"
    for ours_row, row in zip(ours, theirs):
        at = f"{where}, step {ours_row['step']}"
        check("training: loss", abs(ours_row["loss"] - row["loss"]), None, at)
        check("training: gradient norm, relative", abs(ours_row["grad_norm"] / row["grad_norm"] - 1), None, at)
        check("training: learning rate", abs(ours_row["learning_rate"] - row["learning_rate"]), 1e-12, at)
    epochs = [row["epoch"] for row in ours]
    assert epochs == sorted(epochs) and abs(epochs[2] - 1) < 1e-6, epochs


def compare_adapter(check, run, model, where, head=None):
    """`head`: lm_head's weight as the base's folder stores it, where the model has another value."""
    ours = run.adapter()
    theirs = {peft_key(n): p.detach() for n, p in model.named_parameters() if p.requires_grad}
    # As PEFT does, the base's weight of an adapted head is saved beside its update.
    base = {peft_key(n): p.detach() if head is None else head for n, p in model.named_parameters() if n.endswith("lm_head.base_layer.weight")}
    assert set(ours) == set(theirs) | set(base)
    assert all(torch.equal(ours[key], value) for key, value in base.items())
    for key, value in theirs.items():
        assert ours[key].dtype == torch.float32
        check("training: adapter, of its largest", worst(ours[key], value) / value.abs().max().item(), None, f"{where}: {key}")


CASES = [
    ("gqa", "linear", {}),
    ("baichuan", "linear", {"target_modules": ["W_pack"]}),
    ("tied", "cosine", {"target_modules": "all-linear", "use_rslora": True}),
    ("llama", "constant_with_warmup", {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"v_proj": 2}}),
]


@pytest.mark.parametrize(("name", "schedule", "config"), CASES, ids=[c[0] for c in CASES])
def test_ten_steps(name, schedule, config, zoo, adapters, data, lora_train, check):
    rows, path = data
    adapter = adapters(name, **config)
    settings = SETTINGS | {"lr_scheduler_type": schedule}
    run = lora_train(
        model_name_or_path=zoo[name].folder, dataset=path, adapter_name_or_path=adapter, max_steps=10, **settings, **LOOP
    )
    model = open_adapter(zoo[name].load(), adapter)
    theirs = train(model, rows, windows(len(rows), 2, 4, 10), settings)
    compare_logs(check, run.log, theirs, name)
    compare_adapter(check, run, model, name)


@pytest.mark.parametrize("name", ["gqa", "baichuan"])
def test_ten_steps_with_dropout(name, zoo, adapters, data, probe, lora_train, check):
    """PEFT's dropout modules are replaced by Rankfold's masks; they must also be masks of the right kind."""
    rows, path = data
    adapter = adapters(name, lora_dropout=0.1)
    run = lora_train(
        model_name_or_path=zoo[name].folder, dataset=path, adapter_name_or_path=adapter, max_steps=10, **SETTINGS, **LOOP
    )
    plan = windows(len(rows), 2, 4, 10)
    seen = [(step, row, i) for step, window in enumerate(plan) for row, i in enumerate(window)]
    shown = Rows([rows.ids[i] for *_, i in seen], [rows.labels[i] for *_, i in seen])
    shown.step, shown.row = [s for s, *_ in seen], [r for _, r, _ in seen]
    model = open_adapter(zoo[name].load(), adapter)
    masks = Masks(model, probe.masks(zoo[name].folder, adapter, shown, seed=LOOP["seed"]))
    check_masks(masks.masks, 0.1)
    theirs = train(model, rows, plan, SETTINGS, masks)
    compare_logs(check, run.log, theirs, f"{name} with dropout")
    compare_adapter(check, run, model, f"{name} with dropout")


def check_masks(masks, p):
    every = torch.cat([mask.flatten() for mask in masks.values()])
    kept = every != 0
    realised = round(p * 65536) / 65536
    assert abs((~kept).double().mean().item() - realised) < 5 * (p * (1 - p) / every.numel()) ** 0.5
    assert torch.all((every[kept] * (1 - realised) - 1).abs() < 1e-6)
    large = [tuple((mask != 0).flatten().tolist()) for mask in masks.values() if mask.numel() >= 400]
    assert len(large) > 100 and len(set(large)) == len(large), "two modules, rows or steps share a mask"


def test_dropout_is_off_in_evaluation(zoo, adapters, rows, probe):
    """The same adapter with and without dropout in its config has the same loss where no gradient is recorded."""
    off, on = adapters("gqa"), adapters("gqa", lora_dropout=0.5)
    plain = probe.forward(zoo["gqa"].folder, off, rows)
    dropped = probe.forward(zoo["gqa"].folder, on, rows)
    # the adapters differ in their values, so each is compared with itself
    assert dropped["eval_loss"].item() != pytest.approx(dropped["loss"].item(), rel=1e-4)
    assert plain["eval_loss"].item() == pytest.approx(plain["loss"].item(), rel=1e-6)


def test_evaluation_while_training(zoo, adapters, data, tmp_path, lora_train, check):
    """eval_loss of the held-out rows at each evaluation, the best step and the result against PEFT and a plain loop."""
    rows, path = data
    held_out = make_rows(7, seed=4)
    adapter = adapters("gqa", lora_dropout=0)
    every = {"eval_steps": 2, "load_best_model_at_end": True, "eval_dataset": held_out.save_json_lines(tmp_path / "held_out.jsonl")}
    run = lora_train(
        model_name_or_path=zoo["gqa"].folder, dataset=path, adapter_name_or_path=adapter, max_steps=10, **SETTINGS, **LOOP, **every
    )
    state = json.loads((run.folder / "trainer_state.json").read_text())
    ours = {row["step"]: row["eval_loss"] for row in state["log_history"] if "eval_loss" in row}
    assert sorted(ours) == [2, 4, 6, 8, 10]
    model, theirs = open_adapter(zoo["gqa"].load(), adapter), {}

    def evaluate(step):
        with torch.no_grad():
            losses = sum(row_loss(model, i, t)[1].item() for i, t in zip(held_out.ids, held_out.labels))
        theirs[step] = losses / held_out.label_count()

    train(model, rows, windows(len(rows), 2, 4, 10), SETTINGS, after_step=evaluate)
    for step, loss in ours.items():
        check("training: eval_loss, relative", abs(loss / theirs[step] - 1), None, f"step {step}")
    best = min(ours, key=ours.get)
    assert state["best_global_step"] == best and state["best_metric"] == ours[best]
    assert state["best_model_checkpoint"] == f"checkpoint-{best}"


@pytest.mark.parametrize("name", ["baichuan", "tied"])
def test_full(name, zoo, data, lora_train, check):
    compare_full(check, zoo[name], *data, windows(len(data[0]), 2, 4, 5), LOOP, lora_train)


def compare_full(check, folder, rows, path, plan, loop, lora_train):
    """Every weight after the steps of the plan."""
    name = folder.name
    settings = SETTINGS | {"max_grad_norm": 1.0, "learning_rate": 1e-3, "warmup_steps": 1}
    run = lora_train(
        model_name_or_path=folder.folder, dataset=path, finetuning_type="full", max_steps=len(plan), **settings, **loop
    )
    model = folder.load()
    theirs = train(model, rows, plan, settings)
    compare_logs(check, run.log, theirs, f"{name} in full")
    ours, before = weights(run.folder), weights(folder.folder)
    expected = dict(model.named_parameters())  # a tied head is named once, as in the file
    assert set(ours) == set(expected)
    for key, value in expected.items():
        # By norms: AdamW moves an element whose gradient is all rounding as far as any other.
        value = value.detach()
        error = (ours[key] - value).norm() / (value - before[key]).norm()
        check("training in full: weight, of its change", error.item(), None, f"{name}: {key}")
    assert json.loads((run.folder / "config.json").read_text())["model_type"]


def test_accumulation_does_not_matter(zoo, adapters, data, lora_train, check):
    """1 x 8 = 2 x 4 = 8 x 1 with dropout: the same steps whatever the split into micro-batches."""
    adapter = adapters("gqa", lora_dropout=0.1)
    runs = [
        lora_train(
            model_name_or_path=zoo["gqa"].folder, dataset=data[1], adapter_name_or_path=adapter, max_steps=4,
            **SETTINGS, **(LOOP | {"per_device_train_batch_size": batch, "gradient_accumulation_steps": 8 // batch}),
        )
        for batch in (1, 2, 8)
    ]  # fmt: skip
    for other in runs[1:]:
        for ours, theirs in zip(other.log, runs[0].log):
            check("accumulation split: loss", abs(ours["loss"] - theirs["loss"]), None, f"step {ours['step']}")


def test_evaluation(zoo, adapters, data, tmp_path, check):
    rows, path = data
    for name, adapter in [("gqa", None), ("gqa", adapters("gqa")), ("baichuan", adapters("baichuan"))]:
        flags = ["--adapter_name_or_path", adapter] if adapter else []
        out = tmp_path / "eval.json"
        run_program("lora-eval", "--model_name_or_path", zoo[name].folder, *flags, "--dataset", path, "--output", out,
            "--dtype", "float32")  # fmt: skip
        result = json.loads(out.read_text())
        model = zoo[name].load()
        if adapter:
            model = open_adapter(model, adapter)
        with torch.no_grad():
            mean = sum(row_loss(model, i, t)[1].item() for i, t in zip(rows.ids, rows.labels)) / rows.label_count()
        assert result["tokens"] == rows.label_count()
        check("lora-eval: loss, relative", abs(result["loss"] / mean - 1), None, f"{name}, adapter: {bool(adapter)}")
        assert result["perplexity"] == pytest.approx(2.718281828459045 ** result["loss"], rel=1e-6)
        assert result["tokens_per_second"] > 0 and result["peak_memory_bytes"] > 0
