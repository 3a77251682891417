"""Rankfold against PEFT: the same folder, rows and order, dropout on, fresh processes taking turns.

    build/venv/bin/python tests/bench/against_peft.py                                      # every case, printed
    build/venv/bin/python tests/bench/against_peft.py --models qkv --dtypes fp32 --rounds 1 --steps 3   # a quick look
    build/venv/bin/python tests/bench/against_peft.py --markdown docs/benchmarks.md        # fills the marked section
    build/venv/bin/python tests/bench/against_peft.py --models qkv --dtypes nf4 bf16_fp32  # bases of fewer bits
    python3 tests/bench/against_peft.py --device cuda --shapes 7b --dtypes bf16            # needs 80 GB of GPU memory

Wall times and peak memory are taken from outside; on a GPU the memory is the device's. Exit code 1: a run failed or losses differ; a missed target is only reported.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import median, quantiles

import common

BATCH, ACCUMULATION, RANK, ALPHA, DROPOUT = 4, 4, 16, 32, 0.05
WINDOW = BATCH * ACCUMULATION


@dataclass(frozen=True)
class Base:
    stored: str  # in the folder
    computed: str
    plain: tuple = ()  # what rankfold_plain opens instead: stored, computed
    is_nf4: bool = False  # quantised when it is loaded


BASES = {
    "fp32": Base("float32", "float32"),
    "bf16": Base("bfloat16", "bfloat16"),
    "bf16_fp32": Base("bfloat16", "float32", plain=("float32", "float32")),
    "nf4": Base("bfloat16", "float32", plain=("bfloat16", "float32"), is_nf4=True),
    "nf4_bf16": Base("bfloat16", "bfloat16", plain=("bfloat16", "bfloat16"), is_nf4=True),
}
NF4 = {"quantization_bit": 4, "quantization_type": "nf4", "double_quantization": True}
SPEED_TARGET = {("fp32", "dense"): 3.0, ("fp32", "rows"): 4.0, ("bf16", "dense"): 2.6, ("bf16", "rows"): 3.5}
MEMORY_TARGET = 0.33
LOSS_LIMIT = {"float32": 1e-4, "bfloat16": 2e-3}  # of the 58 M model; one of 32 layers rounds more often
LOSS_LIMIT_7B = {"float32": 4e-4, "bfloat16": 1e-2}
PARITY = {"steps": 4, "lora_dropout": 0.0}
PARITY_RATE = {"58m": 2e-3, "7b": 2e-4}  # with the larger one a random model of 7 B diverges
VARIANTS = ["rankfold", "rankfold_plain", "peft", "peft_tuned", "peft_malloc"]
KEEP_PAGES = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1)}  # of peft_malloc
BEGIN, END = "<!-- against_peft -->", "<!-- /against_peft -->"


# ---- The PEFT side, in a process of its own -------------------------------------------------------------------------------


def collate(torch, rows):
    """DataCollatorForSeq2Seq's padding: to the longest of the micro-batch, on the right, labels with -100."""
    longest = max(len(row["input_ids"]) for row in rows)
    pad = {"input_ids": 0, "labels": -100}
    batch = {k: torch.tensor([row[k] + [v] * (longest - len(row[k])) for row in rows]) for k, v in pad.items()}
    batch["attention_mask"] = torch.tensor([[1] * len(r["input_ids"]) + [0] * (longest - len(r["input_ids"])) for r in rows])
    return batch


def load_nf4(torch, folder, dtype, device):
    """By bitsandbytes, as PEFT's documentation of QLoRA has it."""
    from peft import prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    bits = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, quantization_config=bits, device_map=device)
    # which keeps all that is not quantised in fp32
    return prepare_model_for_kbit_training(base, use_gradient_checkpointing=False) if dtype == torch.float32 else base


def load_base(torch, job):
    """The base model and its loss, sum over the labels / their number in the window, as transformers' Trainer asks for it."""
    from transformers import AutoModelForCausalLM
    from transformers.loss.loss_utils import ForCausalLMLoss

    dtype = getattr(torch, job["dtype"])
    if job["kind"] != "w_pack":
        if job["is_nf4"]:
            base = load_nf4(torch, job["model"], dtype, job["device"])
        else:
            base = AutoModelForCausalLM.from_pretrained(job["model"], dtype=dtype).to(job["device"])  # attention: sdpa, by default
        base.config.use_cache = False
        return base, lambda model, batch, labels: model(**batch, num_items_in_batch=labels).loss

    sys.path.insert(0, str(common.ORACLE))
    import baichuan

    def sdpa(self, x):  # the oracle's module spells attention out; PEFT must not pay for that
        batch, length, hidden = x.shape
        q, k, v = self.W_pack(x).view(batch, length, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        like = {"dtype": torch.float32, "device": x.device}
        inverse = 10000.0 ** (-torch.arange(0, self.size, 2, **like) / self.size)
        angles = torch.outer(torch.arange(length, **like), inverse).repeat(1, 2)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        q, k = baichuan.rotate(q, cos, sin), baichuan.rotate(k, cos, sin)
        context = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)  # right padding needs no mask
        return self.o_proj(context.transpose(1, 2).reshape(batch, length, hidden))

    baichuan.Attention.forward = sdpa
    with torch.device(job["device"]):
        base = baichuan.BaiChuanForCausalLM.from_pretrained(job["model"], dtype)

    def loss(model, batch, labels):
        logits = model(batch["input_ids"]).logits
        return ForCausalLMLoss(logits, batch["labels"], logits.shape[-1], num_items_in_batch=labels)

    return base, loss


def work(job):
    """Trainer's loop without the Trainer: its loss, clipping and optimizer (fused AdamW), nothing else around them."""
    import resource

    import peft
    import torch
    import transformers

    imported = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    torch.manual_seed(0)
    base, loss_of = load_base(torch, job)
    config = peft.LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=job["lora_dropout"], target_modules=common.TARGETS[job["kind"]]
    )
    model = peft.get_peft_model(base, config, autocast_adapter_dtype=not job["tuned"]).train()
    if job["adapter"]:
        model.save_pretrained(job["adapter"], save_embedding_layers=False)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=job["learning_rate"], weight_decay=0.0, fused=True)
    rows = [json.loads(line) for line in Path(job["rows"]).read_text().splitlines()]
    losses = []
    for step in range(job["steps"]):
        window = rows[step * WINDOW : (step + 1) * WINDOW]
        labels = sum(label != -100 for row in window for label in row["labels"][1:])
        total = 0.0
        for begin in range(0, WINDOW, BATCH):
            batch = {k: v.to(job["device"]) for k, v in collate(torch, window[begin : begin + BATCH]).items()}
            loss = loss_of(model, batch, labels)
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total)
        if job["device"] == "cuda":
            torch.cuda.synchronize()
        print(f"step {step + 1}/{job['steps']}  loss {total:.4f}", flush=True)
    blas = [x.strip(" -") for x in torch.__config__.show().splitlines() if "Math Kernel" in x or "MKL-DNN" in x]
    facts = {
        "losses": losses, "imported_mib": imported, "threads": torch.get_num_threads(), "blas": "; ".join(blas),
        "capability": torch.backends.cpu.get_cpu_capability(), "adapter_dtype": str(parameters[0].dtype).removeprefix("torch."),
        # bitsandbytes has two in a byte
        "parameters": sum(p.numel() * (2 if p.dtype == torch.uint8 else 1) for p in base.parameters())
        - sum(p.numel() for p in parameters),
        "attention": getattr(getattr(base, "config", None), "_attn_implementation", "sdpa"),
        "versions": f"torch {torch.__version__}, transformers {transformers.__version__}, peft {peft.__version__}"
        + (f", bitsandbytes {version('bitsandbytes')}" if job["is_nf4"] else ""),
        "libtorch": str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"),
        "gpu": torch.cuda.get_device_name() if job["device"] == "cuda" else "no GPU",
    }  # fmt: skip
    print(json.dumps(facts))


# ---- The driver -----------------------------------------------------------------------------------------------------------


class Case:
    """A model x dtype x rows: its runs, and what they say."""

    def __init__(self, options, kind, dtype, data):
        self.options, self.kind, self.dtype, self.data = options, kind, dtype, data
        self.base = BASES[dtype]
        for stored in {self.base.stored, *self.base.plain[:1]}:
            self.folder(stored)  # made before anything is measured
        count = WINDOW * max(options.steps, PARITY["steps"])
        self.rows = common.dense_rows(count, options.length) if data == "dense" else common.answer_rows(count)
        self.path = common.save_rows(options.work / f"{data}.jsonl", self.rows)
        windows = (self.rows[i : i + WINDOW] for i in range(0, count, WINDOW))
        self.tokens = [sum(len(row["input_ids"]) for row in window) for window in windows]
        self.env = common.environment(options.threads, options.device)
        same = ["peft_tuned"] if self.base.computed == "float32" else []  # adapters have the base's dtype anyway
        same += [] if self.base.plain else ["rankfold_plain"]
        self.runs, self.facts = {v: [] for v in options.variants if v not in same}, None

    def folder(self, stored):
        return common.model_folder(self.options.work, self.kind, stored, **common.SHAPES[self.options.shapes])

    def run(self, variant, steps, learning_rate=2e-4, lora_dropout=DROPOUT, adapter=None):
        """adapter: PEFT saves its initial values there, Rankfold starts from them."""
        stored, computed, is_nf4 = self.base.stored, self.base.computed, self.base.is_nf4
        if variant.startswith("rankfold"):
            if variant == "rankfold_plain":
                (stored, computed), is_nf4 = self.base.plain, False
            lora = {"adapter_name_or_path": adapter} if adapter else {
                "r": RANK, "lora_alpha": ALPHA, "lora_dropout": lora_dropout, "target_modules": common.TARGETS[self.kind],
            }  # fmt: skip
            return common.lora_train(
                self.options.work / "out", self.env, steps, self.options.device, model_name_or_path=self.folder(stored),
                dataset=self.path, dtype=computed, per_device_train_batch_size=BATCH, gradient_accumulation_steps=ACCUMULATION,
                max_grad_norm=1.0, learning_rate=learning_rate, **lora, **(NF4 if is_nf4 else {}),
            )  # fmt: skip
        job = {
            "model": str(self.folder(stored)), "kind": self.kind, "dtype": computed, "is_nf4": is_nf4, "rows": str(self.path),
            "steps": steps, "tuned": variant != "peft", "learning_rate": learning_rate, "lora_dropout": lora_dropout,
            "device": self.options.device, "adapter": adapter and str(adapter),
        }  # fmt: skip
        env = self.env | (KEEP_PAGES if variant == "peft_malloc" else {})
        run = common.measure([sys.executable, __file__, "--worker", json.dumps(job)], env, steps, self.options.device)
        self.facts = json.loads(run.lines[-1])
        return run, self.facts["losses"]

    def measure(self):
        adapter = self.options.work / "adapter"
        parity = PARITY | {"learning_rate": PARITY_RATE[self.options.shapes]}
        theirs = self.run("peft", **parity, adapter=adapter)[1]
        ours = self.run("rankfold", **parity, adapter=adapter)[1]
        self.losses = list(zip(ours, theirs, strict=True))
        self.losses_equal = all(abs(a - b) <= self.loss_limit for a, b in self.losses)  # NaN is not
        for turn in range(self.options.rounds):
            first = turn % len(self.runs)
            for variant in [*list(self.runs)[first:], *list(self.runs)[:first]]:
                self.runs[variant].append(self.run(variant, self.options.steps)[0])
                print(f"  {self.name}, round {turn + 1}: {variant} {self.speed(variant)} tokens/s", file=sys.stderr, flush=True)

    @property
    def loss_limit(self):
        limit = (LOSS_LIMIT_7B if self.options.shapes == "7b" else LOSS_LIMIT)[self.base.computed]
        # Values of a bf16 folder are bf16; bitsandbytes' forward alone leaves that rounding out.
        return 5 * limit if self.base.is_nf4 and self.base.computed == "float32" else limit

    @property
    def name(self):
        return f"{self.kind} {self.dtype} {self.data}"

    def samples(self, variant):
        """Tokens/s of every step but the first of each run; padding does not count."""
        return [tokens / s for run in self.runs[variant] for tokens, s in zip(self.tokens[1:], run.steps_s)]

    def speed(self, variant):
        samples = self.samples(variant)
        low, *_, high = quantiles(samples, n=5, method="inclusive") if len(samples) > 1 else samples * 2
        return f"{median(samples):,.0f} ({low:,.0f}-{high:,.0f})"

    def table_rows(self):
        """A row for each program. What is asked for stands behind Rankfold's ratios; peft_malloc is only reported."""
        ours = self.samples("rankfold")
        peak = {v: median(run.peak_mib for run in runs) for v, runs in self.runs.items()}
        for variant, runs in self.runs.items():
            name = [self.kind, self.dtype, self.data] if variant == "rankfold" else [""] * 3
            seconds = [f"{median(getattr(run, field) for run in runs):.1f}" for field in ("wall_s", "first_step_s")]
            speed, memory, losses = ["", ""], "", ""
            if variant == "rankfold":
                error, limit = max(abs(a - b) for a, b in self.losses), self.loss_limit
                losses = f"{error:.1e} (<= {limit:.0e}: {'met' if self.losses_equal else 'NOT EQUAL'})"
            else:
                theirs = self.samples(variant)
                speed = [f"{median(ours) / median(theirs):.2f} x", f"{max(ours) / max(theirs):.2f} x"]
                memory = f"{peak['rankfold'] / peak[variant]:.2f} x"
                target = SPEED_TARGET.get((self.dtype, self.data))
                if target and variant != "peft_malloc" and self.options.device == "cpu":
                    speed[0] += f" (>= {target}: {'met' if median(ours) >= target * median(theirs) else 'missed'})"
                    met = peak["rankfold"] <= MEMORY_TARGET * peak[variant]
                    memory += f" (<= {MEMORY_TARGET}: {'met' if met else 'missed'})"
            yield [*name, variant, self.speed(variant), *speed, f"{peak[variant]:,.0f}", memory, *seconds, losses]

    def raw(self):
        runs = {v: [{k: x for k, x in vars(run).items() if k != "lines"} for run in runs] for v, runs in self.runs.items()}
        return {
            "model": self.kind, "dtype": self.dtype, "data": self.data, "tokens_of_steps": self.tokens, "runs": runs,
            "losses_rankfold_peft": self.losses, "peft": self.facts,
        }  # fmt: skip


def padding(rows):
    """Tokens that padding adds, as a share."""
    lengths = [len(row["input_ids"]) for row in rows]
    return sum(BATCH * max(lengths[i : i + BATCH]) for i in range(0, len(lengths), BATCH)) / sum(lengths) - 1


def wrapped(text, width, indent):
    return textwrap.wrap(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def command(words):
    """As a block of code, its lines joined by backslashes."""
    lines = wrapped(" ".join(["build/venv/bin/python tests/bench/against_peft.py", *words]), 114, "    ")
    return "    " + " \\\n    ".join(lines)


def report(options, cases, machine):
    facts = cases[0].facts
    blas = re.sub(r"-Product[^;]*| \(Git[^)]*\)", "", facts["blas"])
    asked = {*options.variants, *options.dtypes}
    linked = subprocess.run(["ldd", common.LORA_TRAIN], capture_output=True, text=True, check=True).stdout
    same = "one file for both sides" if facts["libtorch"] in linked else "Rankfold links ANOTHER one"
    data = {case.data: f"{common.describe(case.rows)}, {padding(case.rows):.0%} more with PEFT's padding" for case in cases}
    sizes = {case.kind: f"{case.facts['parameters'] / 1e6:.0f} M" for case in cases}
    fall = "in the first case {:.2f} to {:.2f}".format(cases[0].losses[0][0], cases[0].losses[-1][0])
    load = ", ".join(f"{x:.2f}" for x in os.getloadavg())
    memory = (
        f"ru_maxrss from outside, of which Python with torch, transformers and peft imported is {facts['imported_mib']:.0f} MiB"
        if options.device == "cpu"
        else "of the device in use, CUDA's own included, from outside"
    )
    explained = [
        ({"peft_tuned"}, "peft_tuned: adapters of the base's dtype (on an fp32 base that is peft)"),
        ({"bf16_fp32"}, "bf16_fp32: a bf16 folder that is computed in fp32; rankfold_plain there: an fp32 folder"),
        (
            {"nf4", "nf4_bf16"},
            "nf4, nf4_bf16: a bf16 folder in NF4 with nested scales, computed in fp32 or bf16, quantised by bitsandbytes for "
            "PEFT (nf4 there: with prepare_model_for_kbit_training); rankfold_plain there: the bf16 folder as it is",
        ),
        (
            {"peft_malloc"},
            "peft_malloc: peft_tuned with freed pages kept in the process, as lora-train keeps them: "
            + " ".join(f"{k}={v}" for k, v in KEEP_PAGES.items()),
        ),
    ]
    bullets = [
        f"{date.today()}, {machine}, after {load}",
        f"{facts['versions']}; libtorch_cpu.so: {same}, {facts['capability']}; BLAS: {blas}",
        f"both sides: OMP_NUM_THREADS={options.threads}, OMP_WAIT_POLICY=passive (what lora-train sets by itself), {facts['gpu']}",
        "models: hidden {hidden_size}, {num_hidden_layers} layers, {num_attention_heads} heads, intermediate {intermediate_size}, "
        "vocabulary {vocab_size}, random: ".format(**common.REFERENCE | common.SHAPES[options.shapes])
        + ", ".join(f"{kind} {size}" for kind, size in sizes.items())
        + "; gqa has 2 key/value heads; w_pack is Baichuan (tests/oracle/baichuan.py, with SDPA)",
        f"LoRA r {RANK}, alpha {ALPHA}, dropout {DROPOUT} on q_proj, k_proj, v_proj or W_pack; {BATCH} rows x {ACCUMULATION} "
        "micro-batches a step, AdamW, learning rate 2e-4, max_grad_norm 1",
        *(f"{name}: {text}" for name, text in data.items()),
        f"peft: as documented, transformers' eager model, attention {facts['attention']}, get_peft_model (on a bf16 base its adapters are "
        "fp32), padding to the longest row of the micro-batch, the Trainer's loss and fused AdamW in a bare loop",
        *(text for names, text in explained if asked & names),
        f"{options.rounds} rounds of {options.steps} steps, the first of each left out; every run a fresh process, taking turns",
        f"tokens/s: median over all steps (20-80 %), padding not counted; best: of the fastest steps; peak memory: {memory}; seconds "
        "from the start of the process",
        f"losses: largest difference over {PARITY['steps']} steps ({fall}) from the same adapter, dropout off, learning rate "
        f"{PARITY_RATE[options.shapes]}, against peft (fp32 adapters)",
    ]
    header = ["model", "dtype", "rows", "", "tokens/s", "Rankfold is", "best", "peak, MiB", "Rankfold takes", "s to exit", "s to step 1",
              "losses"]  # fmt: skip
    rows = [header, ["---"] * 4 + ["---:"] * 8, *(row for case in cases for row in case.table_rows())]
    return "\n\n".join([
        command(options.shown),
        "\n".join("\n".join(wrapped(f"- {line}", 120, "  ")) for line in bullets),
        "\n".join("| " + " | ".join(row) + " |" for row in rows),
    ])  # fmt: skip


def fill(path, text):
    old = path.read_text()
    head, tail = old.index(BEGIN) + len(BEGIN), old.index(END)
    path.write_text(f"{old[:head]}\n\n{text}\n\n{old[tail:]}")


def parse(arguments):
    def some_of(choices):
        return {"nargs": "+", "choices": choices, "default": list(choices)}

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", **some_of(list(common.TARGETS)))
    parser.add_argument("--dtypes", **some_of(list(BASES)) | {"default": ["fp32", "bf16"]})
    parser.add_argument("--data", **some_of(["dense", "rows"]))
    parser.add_argument("--variants", **some_of(VARIANTS))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--shapes", choices=list(common.SHAPES), default="58m")
    parser.add_argument("--length", type=int, default=256, help="of dense rows [%(default)s]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=6, help="of a run; the first is left out [%(default)s]")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of both sides [every core]")
    parser.add_argument("--work", type=Path, default=common.ROOT / "build" / "bench", help="models and rows [%(default)s]")
    parser.add_argument("--markdown", type=Path, help=f"file whose text between {BEGIN} and {END} is replaced")
    parser.add_argument("--json", type=Path, help="every step of every run")
    options = parser.parse_args(arguments)
    if "rankfold" not in options.variants or options.steps < 2 or options.rounds < 1:
        parser.error("expected rankfold among --variants, --steps >= 2 and --rounds >= 1")
    if options.markdown and not (BEGIN in options.markdown.read_text() and END in options.markdown.read_text()):
        parser.error(f"{options.markdown}: expected the lines {BEGIN} and {END}")
    paths = {"--json", "--work"}  # say nothing of what was measured
    options.shown = [word for before, word in zip(["", *arguments], arguments) if not {before, word} & paths]
    options.work.mkdir(parents=True, exist_ok=True)
    return options


def main():
    if sys.argv[1:2] == ["--worker"]:
        return work(json.loads(sys.argv[2]))
    options = parse(sys.argv[1:])
    machine = common.machine(options.threads)
    combinations = product(options.models, options.dtypes, options.data)
    cases = [Case(options, m, t, d) for m, t, d in combinations if m != "w_pack" or not BASES[t].is_nf4]  # PEFT's side has none
    if not cases:
        sys.exit("w_pack has no PEFT's side on NF4")
    for case in cases:
        case.measure()
    text = report(options, cases, machine)
    if options.markdown:
        fill(options.markdown, text)
    else:
        print(text)
    if options.json:
        options.json.write_text(json.dumps([case.raw() for case in cases], indent=1) + "\n")
    sys.exit(0 if all(case.losses_equal for case in cases) else 1)


if __name__ == "__main__":
    main()
