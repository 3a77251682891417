"""How fast completions are made, beside transformers' generate, on the CPU.

    build/venv/bin/python tests/bench/generate.py [--dtype float32] [--jobs mixed] [--programs rankfold] [--rounds 5]

Greedy, random model (tests/bench/common.py), prompts of ids. Three jobs:
    one    one prompt of 32 tokens, 64 new ones
    eight  eight such prompts together
    mixed  32 prompts of 8 to 64 tokens, 8 to 256 new ones each: rankfold with 16 rows at a time, rankfold one row at a
           time, transformers with 8 rows at a time (padded on the left; a batch runs until its longest is done) and one
           at a time
Every program is started once and makes each job once to warm up. Then all take turns, as the machine may be shared: of
each round only ratios count, and their median is shown with the least and the most. Tokens are those that were wanted.
"""

import argparse
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from statistics import median

import common

BENCH = common.LORA_TRAIN.with_name("rankfold-generate-bench")
JOBS = {"one": [("rankfold", 1), ("transformers", 1)], "eight": [("rankfold", 8), ("transformers", 8)],
        "mixed": [("rankfold", 16), ("rankfold", 1), ("transformers", 8), ("transformers", 1)]}  # fmt: skip


def rows_of(job, vocabulary, seed=7):
    draw = random.Random(seed)

    def row(length, new):
        return {"input_ids": [draw.randrange(3, vocabulary) for _ in range(length)], "new_tokens": new}

    if job == "mixed":
        return [row(draw.randint(8, 64), draw.randint(8, 256)) for _ in range(32)]
    return [row(32, 64) for _ in range(1 if job == "one" else 8)]


def work(model, rows_file, batch_size, dtype):
    """transformers' side: as rankfold-generate-bench."""
    import time

    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
    model.generation_config.eos_token_id = None
    rows = json.loads(Path(rows_file).read_text())
    for _ in sys.stdin:
        begin = time.perf_counter()
        for first in range(0, len(rows), batch_size):
            batch = rows[first : first + batch_size]
            longest = max(len(row["input_ids"]) for row in batch)
            padding = [longest - len(row["input_ids"]) for row in batch]
            ids = torch.tensor([[0] * pad + row["input_ids"] for pad, row in zip(padding, batch)])
            mask = torch.tensor([[0] * pad + [1] * (longest - pad) for pad in padding])
            new = max(row["new_tokens"] for row in batch)
            with torch.inference_mode():
                model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=new, min_new_tokens=new, pad_token_id=0)
        seconds = time.perf_counter() - begin
        print(json.dumps({"seconds": seconds, "tokens": sum(row["new_tokens"] for row in rows)}), flush=True)


class Side:
    def __init__(self, program, batch_size, model, rows, options):
        self.name = f"{program}, {batch_size} at a time"
        command = [BENCH] if program == "rankfold" else [sys.executable, __file__, "--worker"]
        command += [model, rows, batch_size, options.dtype]
        self.process = subprocess.Popen(list(map(str, command)), env=common.environment(options.threads), text=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # fmt: skip
        self.speeds = []

    def run(self):
        """Tokens a second of one job."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.name}: ended with {self.process.wait()}")
        result = json.loads(line)
        return result["tokens"] / result["seconds"]

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def measure(job, sides, rounds):
    for side in sides:
        side.run()
    for turn in range(rounds):
        for side in sides[turn % len(sides) :] + sides[: turn % len(sides)]:
            side.speeds.append(side.run())
    ours = sides[0].speeds
    for side in sides:
        ratios = sorted(a / b for a, b in zip(ours, side.speeds))
        ratio = "" if side is sides[0] else f"{median(ratios):.2f} x ({ratios[0]:.2f}-{ratios[-1]:.2f})"
        print(f"| {job} | {side.name} | {median(side.speeds):,.0f} | {ratio} |", flush=True)
        side.end()


def main():
    if sys.argv[1:2] == ["--worker"]:
        return work(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--jobs", nargs="+", choices=list(JOBS), default=list(JOBS))
    parser.add_argument("--programs", nargs="+", choices=["rankfold", "transformers"], default=["rankfold", "transformers"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--work", type=Path, default=common.ROOT / "build" / "bench")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    model = common.model_folder(options.work, "qkv", options.dtype)
    print(f"{common.machine(options.threads)}, {options.dtype}, {options.rounds} rounds, medians\n")
    print("| job | | tokens/s | the first is |\n| --- | --- | ---: | ---: |")
    for job in options.jobs:
        rows = options.work / f"generate-{job}.json"
        rows.write_text(json.dumps(rows_of(job, common.REFERENCE["vocab_size"])))
        sides = [side for side in JOBS[job] if side[0] in options.programs]
        measure(job, [Side(*side, model, rows, options) for side in sides], options.rounds)


if __name__ == "__main__":
    main()
