"""The toy model that the other tests stand on."""

from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from tests.toy import toy_pipeline

PARTS = ("unet", "vae", "text_encoder")


def test_it_is_the_same_everywhere_and_leaves_the_global_stream_alone(
    toy_base: Path,
) -> None:
    before = torch.get_rng_state()
    one = toy_pipeline()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    for other in (toy_pipeline(), StableDiffusionPipeline.from_pretrained(toy_base)):
        for part in PARTS:
            weights, others = getattr(one, part).state_dict(), getattr(other, part).state_dict()
            assert weights.keys() == others.keys()
            assert all(torch.equal(weights[name], others[name]) for name in weights)
            assert not getattr(other, part).training


def test_any_prompt_tokenizes_and_no_letter_is_lost() -> None:
    tokenizer = toy_pipeline().tokenizer
    assert len(tokenizer("a photo of a zwx car").input_ids) == 2 + 6
    tokens = tokenizer("Ünï 日本!").input_ids
    assert tokenizer.unk_token_id not in tokens[1:-1]
    assert tokenizer.decode(tokens[1:-1]) == "ünï 日本 !"
