"""Probes on the toy model: the maps and features they see are the real ones, and they leave nothing behind."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from apt_engine.errors import BaseModelError
from apt_engine.training.captions import token_pairs
from apt_engine.training.watch import Probes, TokenPairs, attention_map, position_mask
from tests.engine.test_bases import stable_diffusion
from tests.engine.test_laws import Base, output, tuned_base


def watched(base: Base) -> Probes:
    return Probes(base.denoiser, features=True, maps=True)


def all_tokens() -> TokenPairs:
    return TokenPairs(torch.arange(77), torch.arange(77))


@pytest.mark.parametrize("attention", ["fused", "plain"])
def test_probes_see_the_real_maps_and_features_and_change_no_output(attention: str) -> None:
    from diffusers.models.attention_processor import AttnProcessor

    base = tuned_base()
    expected = output(base)
    maps: dict[str, Tensor] = {}
    features: dict[str, Tensor] = {}

    class Recorder(AttnProcessor):
        """The stock processor, which also tells its map and softmax(QK)V."""

        def __init__(self, name: str) -> None:
            self.name = name

        def __call__(
            self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
        ) -> Tensor:
            context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
            query, key, value = (
                attn.head_to_batch_dim(part)
                for part in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
            )
            probabilities = attn.get_attention_scores(query, key)
            maps[self.name] = probabilities.unflatten(0, (-1, attn.heads))
            features[self.name] = attn.batch_to_head_dim(torch.bmm(probabilities, value))
            return attn.to_out[1](attn.to_out[0](features[self.name]))

    if attention == "plain":
        base.pipeline.unet.set_attn_processor(AttnProcessor())
    with watched(base).watch(torch.ones(2, 8, 8), all_tokens()) as seen:
        torch.testing.assert_close(output(base), expected, rtol=1e-4, atol=1e-5)
    assert len(seen.reference) == 2 * sum(name.endswith("attn1") for name in seen.reference)
    assert all(name.startswith(("mid_block", "up_blocks")) for name in seen.reference)
    for name, module in base.denoiser.named_modules():
        if name.endswith((".attn1", ".attn2")):
            module.set_processor(Recorder(name))  # pyright: ignore[reportCallIssue]
    output(base)
    for name, ours in seen.reference.items():
        if name.endswith("attn2"):
            torch.testing.assert_close(ours, maps[name], rtol=1e-4, atol=1e-6)
        else:
            torch.testing.assert_close(ours[0], features[name].mean(dim=1), rtol=1e-4, atol=1e-5)


def test_hooks_are_gone_after_the_step_also_after_an_exception() -> None:
    base = tuned_base()
    probes = watched(base)
    with pytest.raises(ZeroDivisionError), probes.watch(torch.ones(2, 8, 8), all_tokens()):
        raise ZeroDivisionError
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in base.denoiser.modules())


def test_a_base_without_cross_attention_is_refused() -> None:
    with pytest.raises(BaseModelError, match="no cross-attention"):
        Probes(nn.Sequential(nn.Linear(2, 2)), features=False, maps=True)


def test_attention_maps_by_hand() -> None:
    query, key = torch.tensor([[[1.0, 0.0, 0.0, 2.0]]]), torch.tensor([[[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]])
    maps = attention_map(query, key, 2)
    first = torch.softmax(torch.tensor([1.0, 0.0]) / 2**0.5, dim=0)
    second = torch.softmax(torch.tensor([0.0, 2.0]) / 2**0.5, dim=0)
    torch.testing.assert_close(maps, torch.stack([first, second])[None, :, None])


def test_masks_follow_the_layers_down() -> None:
    mask = torch.ones(1, 6, 6)
    mask[0, 0, 3] = 0
    assert position_mask(mask, 36).tolist() == mask.flatten(1).tolist()
    assert position_mask(mask, 9).tolist() == [[1, 0, 1, 1, 1, 1, 1, 1, 1]]
    assert position_mask(mask, 4).tolist() == [[0, 1, 1, 1]]


def test_the_identifier_is_left_out_when_the_reference_hears_the_class_alone() -> None:
    base = stable_diffusion()
    same = token_pairs(base, "a photo of a zwx car", "a photo of a zwx car")
    assert same.tuned.tolist() == same.reference.tolist() == list(range(8))
    pairs = token_pairs(base, "a photo of a zwx car", "a photo of a car")
    assert pairs.tuned.tolist() == [0, 1, 2, 3, 4, 6, 7]
    assert pairs.reference.tolist() == list(range(7))
    ids = base.token_ids("a photo of a zwx car")
    assert [ids[place] for place in pairs.tuned] == base.token_ids("a photo of a car")
