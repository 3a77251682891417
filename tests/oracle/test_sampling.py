"""What a token is drawn from, and what a penalty does to greedy texts: against transformers' own processors."""

import pytest
import torch
from models import make_rows
from transformers import GenerationConfig
from transformers.generation import LogitsProcessorList

VOCABULARY = 3000
SETTINGS = [
    {"temperature": 0.7},
    {"temperature": 1.0, "top_k": 50},
    {"temperature": 1.3, "top_p": 0.9},
    {"temperature": 0.9, "min_p": 0.05},
    {"temperature": 1.0, "repetition_penalty": 1.3},
    {"temperature": 0.8, "top_k": 200, "top_p": 0.6},
    {"temperature": 2.0, "top_p": 0.95, "min_p": 0.02},
    {"temperature": 1.1, "top_k": 400, "top_p": 0.97, "min_p": 0.01, "repetition_penalty": 0.8},
    {"temperature": 0.2, "top_k": 5, "repetition_penalty": 5.0},
    {"temperature": 1.0, "top_p": 0.001},
]


def theirs(model, logits, ids, settings):
    """Shares by the processors that transformers makes of these settings, in its order."""
    config = GenerationConfig(do_sample=True, **({"top_k": 0} | settings))
    processors = model._get_logits_processor(config, input_ids_seq_length=ids.shape[1], logits_processor=LogitsProcessorList())
    return processors(ids, logits.clone()).double().softmax(-1)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tokens_are_drawn_by_the_same_shares(settings, dtype, zoo, probe):
    torch.manual_seed(11)
    logits = (3 * torch.randn(6, VOCABULARY)).to(dtype).float()  # of 16 bits: many are the same
    ids = torch.randint(0, VOCABULARY, (6, 40))
    expected = theirs(zoo["gqa"].load(), logits, ids, settings)
    ours = probe.sample(logits, ids, **settings)
    if "top_p" in settings and dtype == torch.bfloat16:
        # Which of equal tokens are left out at the border differs; how many, and what they weigh, does not.
        ours, expected = ours.sort(-1).values, expected.sort(-1).values
    assert torch.equal(ours > 0, expected > 0)
    assert (ours - expected).abs().max() < 1e-6


@pytest.mark.parametrize("penalty", [1.2, 0.9])
def test_repetition_penalty_of_a_greedy_text(penalty, zoo, probe):
    prompts = make_rows(6, seed=31, shortest=2, longest=15)
    model = zoo["gqa"].load().eval()
    expected, scores = [], []
    for ids in prompts.ids:
        tensor = torch.tensor([ids])
        out = model.generate(tensor, attention_mask=torch.ones_like(tensor), do_sample=False, max_new_tokens=24, eos_token_id=2,
                             pad_token_id=0, repetition_penalty=penalty, return_dict_in_generate=True, output_logits=True)  # fmt: skip
        new = out.sequences[0].tolist()[len(ids):]
        length = len(new) - (new[-1] == 2)
        expected.append(new[:length])
        scores.append(torch.stack([step[0].log_softmax(-1)[id] for step, id in zip(out.logits[:length], new)]))
    flags = {"max_new_tokens": 24, "repetition_penalty": penalty, "dtype": "float32"}
    assert probe.generate(zoo["gqa"].folder, None, prompts, **flags) == expected
    assert expected != probe.generate(zoo["gqa"].folder, None, prompts, max_new_tokens=24, dtype="float32"), "a poor test"
    for ours, theirs in zip(probe.log_probabilities(zoo["gqa"].folder, None, prompts, **flags), scores):
        assert (ours - theirs).abs().max() < 1e-5


def test_many_rows_through_few_slots(zoo, probe):
    """Rows of other lengths beside them, and slots that others have left, change nothing."""
    prompts = make_rows(11, seed=33, shortest=1, longest=30)
    alone = [probe.generate(zoo["gqa"].folder, None, prompts, max_new_tokens=20, generation_batch_size=size) for size in (1, 3, 64)]
    assert alone[0] == alone[1] == alone[2]
