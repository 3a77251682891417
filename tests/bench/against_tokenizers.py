"""How fast rows become ids: rankfold-encode beside PyPI's tokenizers on the same tokenizer.json, texts and threads, and
a million rows by lora-train --dry_run.

    build/venv/bin/python tests/bench/against_tokenizers.py BIN [--rows 1000000]

The vocabulary (8,000 pieces, Qwen2's pipeline) and the sentencepiece model (6,000) are trained on our own questions and
answers, of which the texts are put together. Ratios are above 1 where ours is faster.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "true"
os.environ["RAYON_NUM_THREADS"] = "2"

import sentencepiece
import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

ROOT = Path(__file__).resolve().parents[2]
QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
         r"|\s+(?!\S)|\s+")
VOCABULARY = 8192


def our_rows():
    rows = []
    for path in sorted((ROOT / "examples/medical_qa").glob("*.json")):
        rows += [row for row in json.loads(path.read_text()) if "question" in row]
    return rows


def write_model(folder):
    config = dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=64, intermediate_size=128,
                  num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4, vocab_size=VOCABULARY,
                  max_position_embeddings=2048, rms_norm_eps=1e-5, hidden_act="silu", bos_token_id=1, eos_token_id=2)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    layer = "model.layers.0."
    shapes = {"model.embed_tokens": (VOCABULARY, 64), "lm_head": (VOCABULARY, 64), "model.norm": (64,),
              layer + "input_layernorm": (64,), layer + "post_attention_layernorm": (64,),
              layer + "mlp.gate_proj": (128, 64), layer + "mlp.up_proj": (128, 64), layer + "mlp.down_proj": (64, 128)}
    shapes |= {layer + f"self_attn.{name}_proj": (64, 64) for name in "qkvo"}
    save_file({f"{name}.weight": torch.randn(shape) * 0.05 for name, shape in shapes.items()},
              folder / "model.safetensors")


def train_vocabularies(texts, json_folder, model_folder):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN2), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=8000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=special,
        show_progress=False))
    tokenizer.save(str(json_folder / "tokenizer.json"))
    (json_folder / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    corpus = model_folder / "corpus.txt"
    corpus.write_text("\n".join(texts))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus), model_prefix=str(model_folder / "tokenizer"), vocab_size=6000, model_type="bpe",
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
        hard_vocab_limit=False)
    return tokenizer


def beside_tokenizers(binary, tokenizer, folder, texts):
    theirs, ours = [], []
    for _ in range(3):
        begin = time.perf_counter()
        count = sum(len(encoding.ids) for encoding in tokenizer.encode_batch(texts, add_special_tokens=False))
        theirs.append(time.perf_counter() - begin)
        lines = "\n".join(json.dumps(text) for text in texts)
        run = subprocess.run([binary / "rankfold-encode", folder / "tokenizer.json", "--time", "2"], input=lines,
                             text=True, capture_output=True, check=True)
        result = json.loads(run.stdout.splitlines()[-1])
        assert result["tokens"] == count, (result, count)
        ours.append(result["seconds"])
    size = sum(len(text.encode()) for text in texts) / 1e6
    print(f"{len(texts):,} texts, {size:.0f} MB, two threads: ours {size / min(ours):.1f} MB/s, tokenizers "
          f"{size / min(theirs):.1f} MB/s, ratio {min(theirs) / min(ours):.1f}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bin", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    arguments = parser.parse_args()
    binary = arguments.bin.resolve()
    draw = random.Random(1)
    rows = our_rows()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for folder in ("json", "model"):
            write_model(work / folder)
        tokenizer = train_vocabularies([row[key] for row in rows for key in ("question", "answer")], work / "json",
                                       work / "model")
        texts = ["".join(draw.choice(rows)["answer"] for _ in range(10)) for _ in range(20_000)]
        beside_tokenizers(binary, tokenizer, work / "json", texts)
        size = 0
        with open(work / "rows.jsonl", "w") as file:
            for _ in range(arguments.rows):
                row = {"question": draw.choice(rows)["question"], "answer": draw.choice(rows)["answer"]
                       + draw.choice(rows)["answer"] + str(draw.randrange(10**6))}
                size += file.write(json.dumps(row, ensure_ascii=False) + "\n")
        for folder in ("json", "model"):
            begin = time.perf_counter()
            run = subprocess.run([binary / "lora-train", "--model_name_or_path", work / folder, "--dataset",
                                  work / "rows.jsonl", "--output_dir", work / "out", "--target_modules", "all-linear",
                                  "--dry_run"], capture_output=True, text=True)
            assert run.returncode == 0, run.stderr
            print(f"{arguments.rows:,} rows, {size / arguments.rows:.0f} characters each, tokenizer.{folder}: "
                  f"{time.perf_counter() - begin:.1f} s")


if __name__ == "__main__":
    sys.exit(main())
