"""What transformers, PEFT and plain torch compute: the numbers Rankfold is held against."""

import contextlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import get_scheduler

PREFIX = "base_model.model."


@dataclass
class Result:
    logits: torch.Tensor  # [T, V], rows end to end
    loss: float  # sum over the labels
    gradients: dict  # by key in the adapter file


def peft_key(name):
    """The key in adapter_model.safetensors of a parameter of a PeftModel."""
    return re.sub(r"\.(modules_to_save\.)?default(?=\.|$)", "", name)


def inner(model):
    """The model itself, adapter inside."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def forget_lengths(model):
    """Rope of the kind "dynamic" keeps the longest row it has met; here each row is the first one."""
    for module in model.modules():
        if hasattr(module, "original_inv_freq"):
            module.inv_freq = module.original_inv_freq.clone()
            module.max_seq_len_cached = module.original_max_seq_len


def row_loss(model, ids, labels):
    """Logits [T, V] and the sum of the loss over the labels of one row."""
    forget_lengths(model)
    logits = inner(model)(input_ids=torch.tensor([ids])).logits[0]
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return logits, F.cross_entropy(wide[:-1], torch.tensor(labels[1:]), ignore_index=-100, reduction="sum")


def forward(model, rows, gradients=True):
    model.zero_grad()
    logits, total = [], 0.0
    with contextlib.nullcontext() if gradients else torch.no_grad():
        for ids, labels in zip(rows.ids, rows.labels):
            row_logits, loss = row_loss(model, ids, labels)
            if gradients and loss.requires_grad:
                loss.backward()
            logits.append(row_logits.detach())
            total += loss.item()
    found = {}
    if gradients:
        found = {peft_key(n): p.grad.clone() for n, p in model.named_parameters() if p.requires_grad and p.grad is not None}
    return Result(torch.cat(logits), total, found)


@torch.no_grad()
def greedy(model, ids, count, eos):
    """New ids, without the eos that ends them: a plain loop, no cache."""
    new = []
    while len(new) < count:
        forget_lengths(model)
        best = int(model(input_ids=torch.tensor([ids + new])).logits[0, -1].argmax())
        if best in eos:
            break
        new.append(best)
    return new


def make_adapter(base, folder, seed=0, b_scale=0.04, **config):
    """An adapter folder written by PEFT, its B random instead of zero."""
    model = get_peft_model(base, LoraConfig(**config))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.copy_(b_scale * torch.randn(p.shape, generator=generator))
    model.save_pretrained(str(folder), save_embedding_layers=False)
    return Path(folder)


def open_adapter(base, folder, trainable=True):
    return PeftModel.from_pretrained(base, str(folder), is_trainable=trainable)


class GivenMask(torch.nn.Module):
    """Stands where PEFT's dropout module stood."""

    def __init__(self):
        super().__init__()
        self.mask = None

    def forward(self, x):
        return x * self.mask


class Masks:
    """Rankfold's masks in place of PEFT's dropout modules; show(n) before the forward of row n."""

    def __init__(self, model, path):
        self.masks = load_file(path)
        self.holes = {}
        for name, module in model.named_modules():
            if hasattr(module, "lora_dropout") and "default" in module.lora_dropout:
                module.lora_dropout["default"] = self.holes[name.removeprefix(PREFIX)] = GivenMask()

    def show(self, row):
        for name, hole in self.holes.items():
            hole.mask = self.masks[f"mask.{row}.{name}"]


def windows(count, batch, accumulation, steps):
    """Row numbers of each optimizer step, in the file's order, epoch after epoch; the last window of an epoch may be short."""
    size = batch * accumulation
    epoch = [list(range(i, min(i + size, count))) for i in range(0, count, size)]
    return [epoch[i % len(epoch)] for i in range(steps)]


def spared(name):
    """No weight decay for norms and biases, as in transformers' Trainer."""
    return "norm" in name or "bias" in name


def train(model, rows, plan, settings, masks=None, after_step=None):
    """Plain AdamW on one row at a time. Returns log rows as in trainer_state.json. after_step(number) follows each step."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    parameters = [p for _, p in named]
    groups = [
        {"params": [p for n, p in named if not spared(n)], "weight_decay": settings["weight_decay"]},
        {"params": [p for n, p in named if spared(n)], "weight_decay": 0.0},
    ]
    betas = (settings["adam_beta1"], settings["adam_beta2"])
    optimizer = torch.optim.AdamW(groups, lr=settings["learning_rate"], betas=betas, eps=settings["adam_epsilon"])
    schedule = get_scheduler(settings["lr_scheduler_type"], optimizer, settings["warmup_steps"], len(plan))
    log, seen = [], 0
    for window in plan:
        labels = rows.select(window).label_count()
        total = 0.0
        for i in window:
            if masks:
                masks.show(seen)
            seen += 1
            _, loss = row_loss(model, rows.ids[i], rows.labels[i])
            (loss / labels).backward()
            total += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(parameters, settings["max_grad_norm"])
        log.append({"loss": total / labels, "grad_norm": norm.item(), "learning_rate": schedule.get_last_lr()[0]})
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if after_step:
            after_step(len(log))
    return log


def weights(folder):
    """Every tensor of a model folder, whatever its sharding."""
    folder = Path(folder)
    index = folder / "model.safetensors.index.json"
    files = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else {"model.safetensors"}
    tensors = {}
    for file in sorted(files):
        tensors |= load_file(folder / file)
    return tensors


def worst(ours, theirs):
    """Largest difference; NaN if anything is NaN."""
    assert ours.shape == theirs.shape, f"shapes {tuple(ours.shape)} and {tuple(theirs.shape)}"
    return (ours.double() - theirs.double()).abs().max().item()
