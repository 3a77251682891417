"""What against_peft.py and scaling.py share: random model folders, rows of ids, and runs that are measured from outside.

Nothing here may import torch: a child's ru_maxrss begins at its parent's, so the driver must stay small.
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

ROOT = Path(__file__).resolve().parents[2]
ORACLE = ROOT / "tests" / "oracle"
LORA_TRAIN = Path(os.environ.get("RANKFOLD_BIN", ROOT / "build" / "bin")).resolve() / "lora-train"
REFERENCE = {
    "vocab_size": 32000, "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8,
    "num_key_value_heads": 8, "max_position_embeddings": 4096, "rms_norm_eps": 1e-6,
}  # fmt: skip
SHAPES = {
    "58m": {},
    "7b": {
        "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 32,
    },
}  # what differs from REFERENCE  # fmt: skip
TARGETS = {"qkv": ["q_proj", "k_proj", "v_proj"], "gqa": ["q_proj", "k_proj", "v_proj"], "w_pack": ["W_pack"]}


@dataclass
class Run:
    """A process seen from outside: when its "step k" lines arrived, and what it took in all."""

    wall_s: float  # start to exit
    first_step_s: float  # start to the end of the first step
    steps_s: list  # each later step
    peak_mib: float  # ru_maxrss; on a device, of its memory
    lines: list


def environment(threads, device="cpu"):
    """The same for every variant. GPUs are hidden from runs on the CPU; OpenMP's threads sleep while they wait."""
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    return {
        **os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false", **hidden,
    }  # fmt: skip


class DeviceMemory:
    """The most memory in use on the first GPU beyond what was before, MiB, looked at 20 times a second from outside."""

    def __init__(self):
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0", "--loop-ms=50"]
        self.process = subprocess.Popen(query, stdout=subprocess.PIPE, text=True)
        self.before = self.peak = int(self.process.stdout.readline())
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()

    def watch(self):
        for line in self.process.stdout:
            self.peak = max(self.peak, int(line))

    def stop(self):
        self.process.terminate()
        self.thread.join()
        self.process.wait()
        return self.peak - self.before


def measure(command, env, steps, device="cpu"):
    """A failed run ends the benchmark."""
    memory = None if device == "cpu" else DeviceMemory()
    start = time.perf_counter()
    process = subprocess.Popen(
        [str(word) for word in command], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    lines, ends = [], []
    for line in process.stdout:
        if line.startswith("step "):
            ends.append(time.perf_counter() - start)
        lines.append(line.rstrip("\n"))
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    peak = memory.stop() if memory else usage.ru_maxrss / 1024
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0 or len(ends) != steps:
        sys.exit(f"exit {process.returncode}, {len(ends)} of {steps} steps: {' '.join(process.args)}\n" + "\n".join(lines[-20:]))
    return Run(wall, ends[0], [b - a for a, b in zip(ends, ends[1:])], peak, lines)


def lora_train(output_dir, env, steps, device="cpu", **settings):
    """A fresh lora-train. Returns the run and its losses."""
    shutil.rmtree(output_dir, ignore_errors=True)
    settings = {
        "output_dir": output_dir, "device": device, "shuffle": False, "max_length": 4096, "logging_steps": 1, "save_steps": 0,
        "lr_scheduler_type": "constant", "max_steps": steps, **settings,
    }  # fmt: skip
    words = {k: json.dumps(v) if isinstance(v, (bool, list)) else v for k, v in settings.items()}
    run = measure([LORA_TRAIN, *(f"--{k}={v}" for k, v in words.items())], env, steps, device)
    log = (Path(output_dir) / "train_log.jsonl").read_text().splitlines()
    return run, [json.loads(line)["loss"] for line in log]


def model_folder(work, kind, dtype, **changes):
    """A random model, normal(0, 0.02), as a Hugging Face folder whose name says all of it; made once."""
    shape = REFERENCE | {"num_key_value_heads": 2 if kind == "gqa" else changes.get("num_attention_heads", 8)} | changes
    name = "-".join(str(shape[key]) for key in REFERENCE)
    folder = Path(work) / f"{kind}-{name}-{dtype}"
    if not folder.exists():
        temp = folder.with_suffix(".tmp")
        shutil.rmtree(temp, ignore_errors=True)
        subprocess.run([sys.executable, __file__, json.dumps([str(temp), kind, dtype, shape])], check=True)
        temp.rename(folder)
    return folder


def write_model(folder, kind, dtype, shape):
    """Runs in a process of its own."""
    from types import SimpleNamespace

    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils.logging import disable_progress_bar

    sys.path.insert(0, str(ORACLE))
    from baichuan import BaiChuanForCausalLM

    disable_progress_bar()
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, dtype))
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):  # for the time that 7 B random numbers take
        if kind == "w_pack":
            model = BaiChuanForCausalLM(SimpleNamespace(**shape))
            for name, p in model.named_parameters():
                if "norm" not in name:
                    torch.nn.init.normal_(p, std=0.02)
        else:
            model = LlamaForCausalLM(LlamaConfig(**shape, tie_word_embeddings=False))  # initializer_range is 0.02
    model.save_pretrained(folder)


def dense_rows(count, length, vocab=32000, seed=1):
    """Every row `length` tokens, all labelled. Ids come as often as words do: the k-th with weight 1 / k."""
    rng = random.Random(seed)
    return [{"input_ids": ids, "labels": ids} for ids in (draw(rng, vocab, length) for _ in range(count))]


def answer_rows(count, vocab=32000, seed=1):
    """Question/answer-like: lengths log-normal in [16, 509], mean about 174; the first 10 to 40 % is the prompt, not learnt."""
    rng = random.Random(seed)
    rows = []
    for _ in range(count):
        length = min(509, max(16, round(rng.lognormvariate(4.98, 0.6))))
        ids, prompt = draw(rng, vocab, length), int(length * rng.uniform(0.1, 0.4))
        rows.append({"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]})
    return rows


def draw(rng, vocab, length):
    """Ids from 3 on, by the inverse of the distribution function of weights 1 / k."""
    return [2 + int((vocab - 3) ** rng.random()) for _ in range(length)]


def save_rows(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def describe(rows):
    lengths = [len(row["input_ids"]) for row in rows]
    learnt = sum(label != -100 for row in rows for label in row["labels"])
    return f"{len(rows)} rows, mean {mean(lengths):.0f} tokens, longest {max(lengths)}, {learnt / sum(lengths):.0%} labelled"


def machine(threads):
    info = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*:\s*(.*)", info)
    load = ", ".join(f"{x:.2f}" for x in os.getloadavg())
    return f"{model[1] if model else 'unknown CPU'}, {len(os.sched_getaffinity(0))} cores, {threads} threads; load before {load}"


if __name__ == "__main__":
    write_model(*json.loads(sys.argv[1]))
