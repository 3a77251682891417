"""How Rankfold's speed and memory on the CPU go with sequence length, rank and model size; draws an SVG of each.

    build/venv/bin/python tests/bench/scaling.py                 # docs/scaling_{length,rank,size}.svg, numbers printed
    build/venv/bin/python tests/bench/scaling.py --sweeps rank --steps 3 --out /tmp

Every point is a fresh lora-train: LoRA alpha 2 r, dropout 0.05 on q, k and v; 4,096 tokens a step, every row full and all
labelled. Length: one micro-batch a step. Rank and size: rows of 256 tokens, 4 x 4. Peak memory is ru_maxrss from outside.
"""

import argparse
import json
import math
import os
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from statistics import median
from xml.sax.saxutils import escape

import common

TOKENS = 4096  # of an optimizer step
VOCAB = 8192  # of the sizes: 32000 would outweigh a small model's layers
SIZES = [(128, 4, 352), (256, 6, 704), (512, 8, 1408), (768, 14, 2048), (1280, 19, 3520)]  # hidden, layers, intermediate
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
COLOURS = {"fp32": "#2f81f7", "bf16": "#d9730d"}  # these and the grey are readable on white and on black
GREY = "#6e7781"


@dataclass
class Point:
    x: float  # on the axis
    shape: dict = field(default_factory=dict)  # of the model, where it is not the reference's
    r: int = 16
    length: int = 256
    batch: int = 4


def points(sweep):
    if sweep == "length":
        return [Point(n, length=n, batch=TOKENS // n) for n in (128, 256, 512, 1024, 2048, 4096)]
    if sweep == "rank":
        return [Point(r, r=r) for r in (4, 8, 16, 32, 64, 128, 256)]
    return [Point(*size(h, n, i)) for h, n, i in SIZES]


def size(h, n, i):
    """Million parameters, and the shape, of n layers with hidden size h and intermediate size i."""
    count = 2 * VOCAB * h + n * (4 * h * h + 3 * h * i + 2 * h) + h
    shape = {"vocab_size": VOCAB, "hidden_size": h, "num_hidden_layers": n, "intermediate_size": i}
    return count / 1e6, shape | {"num_attention_heads": h // 64}


CHARTS = {
    "length": ("Sequence length (58 M parameters, r 16, 4,096 tokens a micro-batch)", "tokens in a row"),
    "rank": ("Rank (58 M parameters, q, k, v, rows of 256 tokens)", "r"),
    "size": ("Model size (r 16, rows of 256 tokens, vocabulary 8,192)", "million parameters"),
}


def run_point(options, point, dtype):
    folder = common.model_folder(options.work, "qkv", dtype, **point.shape)
    rows = common.dense_rows(options.steps * TOKENS // point.length, point.length, point.shape.get("vocab_size", 32000))
    run, _ = common.lora_train(
        options.work / "out", common.environment(options.threads), options.steps, model_name_or_path=folder,
        dataset=common.save_rows(options.work / "scaling.jsonl", rows), dtype=dtype, r=point.r, lora_alpha=2 * point.r,
        lora_dropout=0.05, target_modules=common.TARGETS["qkv"], per_device_train_batch_size=point.batch,
        gradient_accumulation_steps=TOKENS // (point.batch * point.length),
    )  # fmt: skip
    return run


def sweep_over(options, every, x_label):
    """The panels of a chart; points and dtypes take turns. Speed: median over the steps of all rounds but the first of each."""
    runs = {(dtype, i): [] for dtype in options.dtypes for i in range(len(every))}
    for _ in range(options.rounds):
        for dtype, i in runs:
            runs[dtype, i].append(run_point(options, every[i], DTYPES[dtype]))
    panels = {"tokens/s": {}, "peak memory, MiB": {}}
    for (dtype, i), several in runs.items():
        speed = TOKENS / median(s for run in several for s in run.steps_s)
        memory = median(run.peak_mib for run in several)
        print(f"{x_label} {every[i].x:,.0f}, {dtype}: {speed:,.0f} tokens/s, {memory:,.0f} MiB", flush=True)
        panels["tokens/s"].setdefault(dtype, []).append(speed)
        panels["peak memory, MiB"].setdefault(dtype, []).append(memory)
    return panels


def nice_ticks(values, log):
    """From 0 in six steps or fewer of 1, 2 or 5 times a power of ten; or, on a log axis, 1, 2, 5, 10, ... around the values."""
    if log:
        first, last = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
        every = [m * 10**e for e in range(first, last + 1) for m in (1, 2, 5)]
        low, high = max(t for t in every if t <= min(values)), min(t for t in every if t >= max(values))
        return [t for t in every if low <= t <= high]
    raw = max(values) / 6
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    return [step * i for i in range(math.ceil(max(values) / step) + 1)]


def panel(left, xs, label, x_label, series, log):
    """Axes and lines of one chart in a box of 340 x 220 at (left, 70); x in powers of two, y from 0 or logarithmic."""
    top, width, height = 70, 340, 220
    ticks = nice_ticks([y for ys in series.values() for y in ys], log)
    scale = math.log if log else float
    low, high = scale(ticks[0]), scale(ticks[-1])
    low_x, high_x = math.log2(min(xs)), math.log2(max(xs))

    def px(x):
        return left + width * (0.03 + 0.94 * (math.log2(x) - low_x) / (high_x - low_x))

    def py(y):
        return top + height * (1 - (scale(y) - low) / (high - low))

    def text(x, y, words, anchor="middle", extra=""):
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {extra}>{escape(words)}</text>'

    parts = [text(left, top - 14, label, "start", 'font-weight="bold"'), text(left + width / 2, top + height + 42, x_label)]
    for t in ticks:
        parts.append(f'<path d="M{left} {py(t):.1f}h{width}" stroke="{GREY}" stroke-opacity="0.25"/>')
        parts.append(text(left - 8, py(t) + 4, f"{t:,.10g}", "end"))
    for x in xs:
        parts.append(f'<path d="M{px(x):.1f} {top + height}v5" stroke="{GREY}"/>')
        parts.append(text(px(x), top + height + 20, f"{x:,.0f}"))
    parts.append(f'<path d="M{left} {top}v{height}h{width}" fill="none" stroke="{GREY}"/>')
    for name, ys in series.items():
        line = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in zip(xs, ys))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{COLOURS[name]}" stroke-width="2"/>')
        for x, y in zip(xs, ys):
            dot = f'<circle cx="{px(x):.1f}" cy="{py(y):.1f}" r="3.5" fill="{COLOURS[name]}">'
            parts.append(f"{dot}<title>{name}, {x:,.0f}: {y:,.0f}</title></circle>")
    return parts


def draw(path, title, x_label, xs, panels, note, log):
    """panels: {label: {series: values}}, side by side."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 860 375" width="860" height="375" fill="{GREY}" '
        'font-family="system-ui, Helvetica, Arial, sans-serif" font-size="12">',
        f'<text x="60" y="26" font-size="15" font-weight="bold">{escape(title)}</text>',
        f'<text x="60" y="366" font-size="10">{escape(note)}</text>',
    ]
    for i, name in enumerate(next(iter(panels.values()))):
        parts.append(f'<path d="M{720 + 60 * i} 22h16" stroke="{COLOURS[name]}" stroke-width="3"/>')
        parts.append(f'<text x="{740 + 60 * i}" y="26">{name}</text>')
    for i, (label, series) in enumerate(panels.items()):
        parts += panel(60 + 440 * i, xs, label, x_label, series, log)
    path.write_text("\n".join([*parts, "</svg>\n"]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweeps", nargs="+", choices=list(CHARTS), default=list(CHARTS))
    parser.add_argument("--dtypes", nargs="+", choices=list(DTYPES), default=list(DTYPES))
    parser.add_argument("--steps", type=int, default=4, help="of a run, 2 or more; the first is left out [%(default)s]")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--work", type=Path, default=common.ROOT / "build" / "bench", help="models and rows [%(default)s]")
    parser.add_argument("--out", type=Path, default=common.ROOT / "docs", help="folder of the charts [%(default)s]")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    machine, found = common.machine(options.threads), {}
    for sweep in options.sweeps:
        every, (title, x_label) = points(sweep), CHARTS[sweep]
        panels = sweep_over(options, every, x_label)
        xs = [p.x for p in every]
        note = f"{date.today()}, {machine}; median of {options.rounds} x {options.steps - 1} steps"
        draw(options.out / f"scaling_{sweep}.svg", title, x_label, xs, panels, note, log=sweep == "size")
        found[sweep] = {"machine": machine, "x": xs, **panels}
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
