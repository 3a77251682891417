"""Programs, models and the table of worst errors, shared by the oracle tests.

    RANKFOLD_BIN=build/bin build/venv/bin/python -m pytest -q tests/oracle
"""

import json
import math
import os
import subprocess
import zlib
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ["OMP_WAIT_POLICY"] = "passive"  # threads that spin slow down a busy machine
os.environ["RANKFOLD_SET_UP"] = "1"  # without the second start that a program makes by itself: tests/faults has that

import pytest  # noqa: E402
import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

import families  # noqa: E402
import models  # noqa: E402
import reference  # noqa: E402
from limits import LIMITS  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("RANKFOLD_BIN", ROOT / "build" / "bin")).resolve()

torch.set_num_threads(1)  # models are small


def pytest_sessionstart(session):
    if not (BIN / "rankfold-probe").exists():
        pytest.exit(f"{BIN}: no rankfold-probe; build first, or set RANKFOLD_BIN to the folder of the programs", 2)


class Ledger:
    """The worst error of each quantity and where it was met."""

    def __init__(self):
        self.worst = {}

    def check(self, quantity, error, limit, where):
        """Fails where error > limit or error is not a number. None stands for the limit in limits.py."""
        limit = LIMITS[quantity] if limit is None else limit
        share = error / limit if math.isfinite(error) else math.inf
        if share >= self.worst.get(quantity, {"share": -1})["share"]:
            self.worst[quantity] = {"share": share, "error": error, "limit": limit, "where": where}
        assert error <= limit, f"{quantity}, {where}: {error:.3g}, limit {limit:.3g}"


LEDGER = Ledger()


@pytest.fixture(scope="session")
def check():
    return LEDGER.check


def pytest_terminal_summary(terminalreporter):
    if not LEDGER.worst:
        return
    terminalreporter.section("worst parity errors")
    for quantity, row in LEDGER.worst.items():
        terminalreporter.write_line(f"{quantity:52} {row['error']:9.2e}  limit {row['limit']:8.2e}  {row['where']}")
    (BIN.parent / "oracle_errors.json").write_text(json.dumps(LEDGER.worst, indent=2) + "\n")


def run(program, *arguments, code=0, text=True):
    """Runs a program of the build and expects its exit code."""
    command = [str(BIN / program), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=text, timeout=600)
    if done.returncode != code:
        pytest.fail(f"exit {done.returncode}, expected {code}: {' '.join(command)}\n{done.stderr[-3000:]}", pytrace=False)
    return done


def command_line(flags):
    """{"top_k": 5} as --top_k 5."""
    words = {True: "true", False: "false"}
    return [word for key, value in flags.items() for word in (f"--{key}", words[value] if isinstance(value, bool) else value)]


class Probe:
    """rankfold-probe, its files in a folder of its own."""

    def __init__(self, folder):
        self.folder = folder

    def forward(self, model, adapter, rows, **flags):
        """logits, loss, labels and grad.KEY as Rankfold computes them."""
        return self._tensors("forward", model, adapter, rows, flags)

    def generate(self, model, adapter, rows, **flags):
        out = self._tensors("generate", model, adapter, rows, flags)
        return [part.tolist() for part in out["ids"].split(out["lengths"].tolist())]

    def log_probabilities(self, model, adapter, rows, **flags):
        """Those of the ids that generate() gives, row by row."""
        out = self._tensors("generate", model, adapter, rows, flags)
        return out["log_probabilities"].split(out["lengths"].tolist())

    def sample(self, logits, ids, **flags):
        """Shares of the tokens that would be drawn from, as `logits`."""
        given, out = self.folder / "logits.safetensors", self.folder / "shares.safetensors"
        save_file({"logits": logits.contiguous(), "ids": ids.contiguous()}, given)
        run("rankfold-probe", "sample", given, out, *command_line(flags))
        return load_file(out)["shares"]

    def masks(self, model, adapter, rows, **flags):
        return self._run("masks", model, adapter, rows, flags)

    def tokenize(self, model, texts):
        return self._json("tokenize", model, texts)

    def match(self, cases):
        return self._json("match", cases)

    def rewrite(self, file, out):
        run("rankfold-probe", "rewrite", file, out)
        return out

    def _json(self, command, *arguments):
        """The last argument goes as a JSON file, as does the answer."""
        given, out = self.folder / f"{command}.json", self.folder / f"{command}.out.json"
        given.write_text(json.dumps(arguments[-1]))
        run("rankfold-probe", command, *arguments[:-1], given, out)
        return json.loads(out.read_text())

    def _run(self, command, model, adapter, rows, flags):
        out = self.folder / f"{command}.safetensors"
        rows = rows.save(self.folder / "rows.safetensors")
        run("rankfold-probe", command, model, adapter or "-", rows, out, *command_line(flags))
        return out

    def _tensors(self, *arguments):
        return load_file(self._run(*arguments))


@pytest.fixture(scope="session")
def probe(tmp_path_factory):
    return Probe(tmp_path_factory.mktemp("probe"))


@pytest.fixture(scope="session")
def zoo(tmp_path_factory):
    return families.Zoo(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def rows():
    return models.make_rows(9, seed=11)


@pytest.fixture(scope="session")
def adapters(zoo, tmp_path_factory):
    """adapters(model name, **LoraConfig): a folder by PEFT, written once; B is random."""
    made = {}

    def make(name, **config):
        config.setdefault("target_modules", zoo[name].linear)
        config = {"r": 5, "lora_alpha": 12, **config}
        key = (name, json.dumps(config, sort_keys=True))
        if key not in made:
            seed = zlib.crc32(repr(key).encode())  # the same whichever tests run
            torch.manual_seed(seed)
            folder = tmp_path_factory.mktemp(f"{name}_adapter")
            made[key] = reference.make_adapter(zoo[name].load(), folder, seed=seed, **config)
        return made[key]

    return make


@pytest.fixture
def lora_train(tmp_path):
    """lora_train(**config): runs the real program; returns its output folder, with .log and .stderr."""

    def train(code=0, **config):
        number = len(list(tmp_path.glob("run*.json")))
        config = {"output_dir": str(tmp_path / f"out{number}"), "dtype": "float32", "device": "cpu", **config}
        path = tmp_path / f"run{number}.json"
        path.write_text(json.dumps({k: str(v) if isinstance(v, Path) else v for k, v in config.items()}))
        done = run("lora-train", path, code=code)
        return Run(Path(config["output_dir"]), done.stderr + done.stdout)

    return train


class Run:
    def __init__(self, folder, text):
        self.folder = folder
        self.text = text

    @property
    def log(self):
        history = json.loads((self.folder / "trainer_state.json").read_text())["log_history"]
        return [row for row in history if "loss" in row]

    def adapter(self):
        return load_file(self.folder / "adapter_model.safetensors")
