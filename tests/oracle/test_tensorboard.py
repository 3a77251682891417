"""TensorBoard's own reader on the event files of lora-train, and an XML parser on its picture."""

import json
import xml.etree.ElementTree as ElementTree

import pytest
from models import make_rows
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

TAGS = {
    "train/loss": "loss",
    "train/grad_norm": "grad_norm",
    "train/learning_rate": "learning_rate",
    "train/tokens_per_second": "tokens_per_second",
    "train/peak_memory_bytes": "peak_memory_bytes",
    "eval/loss": "eval_loss",
    "eval/runtime": "eval_runtime",
    "eval/samples_per_second": "eval_samples_per_second",
    "eval/steps_per_second": "eval_steps_per_second",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_rows(21, seed=3).save_json_lines(tmp_path_factory.mktemp("data") / "rows.jsonl")


def log_rows(folder):
    return [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]


def check_events(folder):
    """Each tag has the points of the log, once each. Returns the steps of training's rows and of evaluation's."""
    files = list(folder.glob("runs/**/events.out.tfevents.*"))
    assert len(files) == 1, files
    events = EventAccumulator(str(files[0].parent), size_guidance={"scalars": 0}).Reload()
    assert events.file_version == 2.0
    assert set(events.Tags()["scalars"]) == set(TAGS)
    for tag, key in TAGS.items():
        rows = [row for row in log_rows(folder) if key in row]
        points = events.Scalars(tag)
        assert [p.step for p in points] == [row["step"] for row in rows], tag
        assert [p.value for p in points] == pytest.approx([row[key] for row in rows], rel=1e-6), tag
        times = [p.wall_time for p in points]
        assert times == sorted(times) and times[0] > 1.6e9
    return [[p.step for p in events.Scalars(tag)] for tag in ("train/loss", "eval/loss")]


def test_tensorboard_reads_a_run_and_one_that_goes_on(zoo, data, lora_train):
    settings = {
        "model_name_or_path": zoo["baichuan"].folder, "dataset": data, "target_modules": ["W_pack"], "logging_steps": 2,
        "per_device_train_batch_size": 4, "save_steps": 4, "report_to": "tensorboard",
        "val_size": 5, "eval_steps": 4,
    }  # fmt: skip
    run = lora_train(max_steps=10, **settings)
    assert check_events(run.folder) == [[2, 4, 6, 8, 10], [4, 8, 10]]
    lora_train(
        max_steps=12, output_dir=str(run.folder), resume_from_checkpoint=str(run.folder / "checkpoint-4"), **settings
    )
    assert check_events(run.folder) == [[2, 4, 6, 8, 10, 12], [4, 8, 12]]
    picture = ElementTree.parse(run.folder / "training_loss.svg").getroot()
    assert picture.tag.endswith("svg")
    assert (run.folder / "report.html").read_text().startswith("<!DOCTYPE html>")
