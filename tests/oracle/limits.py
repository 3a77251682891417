"""Limits of the quantities that have no other measure: four times the worst error that was met over the instruction sets
(baseline, AVX2, AVX-512, AVX-512 with bfloat16) and one and two threads, and never below 16 fp32 roundings of the quantity.

To measure again, for each CAPABILITY and N (the errors stand in build/oracle_errors.json afterwards):

    RANKFOLD_CPU_CAPABILITY=CAPABILITY OMP_NUM_THREADS=N build/venv/bin/python -m pytest -q tests/oracle
"""

ROUNDING = 2.0**-24

# quantity: the worst error met, and how large the quantity is (1 where the error is relative)
MET = {
    "fp32 logits, absolute": (1.9e-5, 10),
    "fp32 loss, relative": (8.0e-8, 1),
    "fp32 loss in training, relative": (8.0e-8, 1),
    "fp32 LoRA gradient, of the largest entry": (4.1e-6, 1),
    "fp32 gradient in full, of the largest entry": (2.8e-6, 1),
    "our adapter in PEFT: float32 loss, relative": (8.3e-8, 1),
    "our adapter in PEFT: bfloat16 loss, relative": (1.7e-4, 1),
    "lora-merge: weight, of its largest": (9.2e-8, 1),
    "lora-merge: loss in transformers, relative": (6.1e-8, 1),
    "training: loss": (1.5e-6, 5),
    "training: gradient norm, relative": (3.3e-7, 1),
    "training: adapter, of its largest": (5.1e-6, 1),
    "training in full: weight, of its change": (5.4e-4, 1),  # twice 2.7e-4 of AVX2: AVX-512 has not been measured
    "accumulation split: loss": (3.9e-7, 5),
    "training: eval_loss, relative": (5.1e-8, 1),
    "lora-eval: loss, relative": (3.3e-8, 1),
}
LIMITS = {quantity: max(4 * met, 16 * ROUNDING * size) for quantity, (met, size) in MET.items()}
