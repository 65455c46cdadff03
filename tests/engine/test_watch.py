"""Probes on the toy model: the maps and features they see are the real ones, and they leave nothing behind."""

import contextlib
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor

from apt_engine.apt.losses import alignment, channel_statistics
from apt_engine.bases.base import Attention, WatchedLayers
from apt_engine.bases.unet import UNetBase
from apt_engine.errors import BaseModelError
from apt_engine.lora.adapter import reference_pass
from apt_engine.training import watch
from apt_engine.training.captions import token_pairs
from apt_engine.training.watch import Probes, TokenPairs, Watched, attention_map, compared_rows, position_mask
from tests.engine.test_bases import stable_diffusion
from tests.laws import OFF, Base, output, run, step_of, tuned_base


def watched(base: Base) -> Probes:
    return Probes(base, features=True, maps=True)


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
    assert len(seen.reference_features) == len(seen.reference_maps) > 1
    assert all(name.startswith(("mid_block", "up_blocks")) for name in (*seen.reference_features, *seen.reference_maps))
    for name, module in base.denoiser.named_modules():
        if name.endswith((".attn1", ".attn2")):
            module.set_processor(Recorder(name))  # pyright: ignore[reportCallIssue]
    output(base)
    for name, ours in seen.reference_maps.items():
        torch.testing.assert_close(ours, maps[name], rtol=1e-4, atol=1e-6)
    for name, (mean, _deviation) in seen.reference_features.items():
        torch.testing.assert_close(mean, features[name].mean(dim=1), rtol=1e-4, atol=1e-5)


def test_hooks_are_gone_after_the_step_also_after_an_exception() -> None:
    base = tuned_base()
    probes = watched(base)
    with pytest.raises(ZeroDivisionError), probes.watch(torch.ones(2, 8, 8), all_tokens()):
        raise ZeroDivisionError
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in base.denoiser.modules())


def test_what_layers_show_again_in_backward_is_not_kept() -> None:
    base = tuned_base()
    base.prepare_training(32, gradient_checkpointing=True)
    passes: list[bool] = []
    with watched(base).watch(torch.ones(2, 8, 8), all_tokens()) as seen:
        layer = base.denoiser.get_submodule(base.watched_layers.features[0])
        layer.register_forward_hook(lambda *_: passes.append(torch.is_grad_enabled()))
        with reference_pass(base.denoiser):
            output(base)
        seen.is_tuned = True
        prediction = output(base)
        kept = {**seen.feature_losses, **seen.map_losses}
        reference = {**seen.reference_features, **seen.reference_maps}
        (prediction.sum() + seen.stabilization().sum() + seen.alignment().sum()).backward()
    assert len(passes) == 3  # the last in backward
    assert len(kept) == len(reference) > 2
    assert all({**seen.feature_losses, **seen.map_losses}[name] is loss for name, loss in kept.items())
    assert all({**seen.reference_features, **seen.reference_maps}[name] is value for name, value in reference.items())


def test_a_base_that_attends_to_no_words_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UNetBase, "watched_layers", WatchedLayers((), ()))
    Probes(stable_diffusion(), features=True, maps=False)
    with pytest.raises(BaseModelError, match="No layer of this base model attends to the words"):
        Probes(stable_diffusion(), features=False, maps=True)


@pytest.mark.parametrize("part", ["stabilization", "alignment"])
def test_a_base_that_hides_its_layers_is_noticed_before_anything_is_learnt(part: str) -> None:
    base = tuned_base()
    base.watch = lambda on_features, on_attention: contextlib.nullcontext()
    learnt: list[Tensor] = []
    with pytest.raises(BaseModelError, match=f"No layer of this base model was seen at work; set {part} to 0"):
        step_of(base, **{**OFF, part: 1})(1, learnt.append)
    assert not learnt


def test_nothing_is_kept_of_what_layers_say_when_checkpointing_runs_them_again() -> None:
    """A term of the second run would hold its layer's graph up to the end of backward."""
    base = tuned_base()
    base.prepare_training(32, gradient_checkpointing=True)
    base.denoiser.train()
    with watched(base).watch(torch.ones(2, 8, 8), all_tokens()) as seen:
        with reference_pass(base.denoiser):
            output(base)
        seen.is_tuned = True
        output(base)
        before = {**seen.feature_losses, **seen.map_losses}
        calls: list[str] = []
        layer = base.denoiser.get_submodule(next(iter(seen.feature_losses)))
        layer.register_forward_pre_hook(lambda *_: calls.append("again"))
        (seen.stabilization() + seen.alignment()).sum().backward()
        assert calls
        after = {**seen.feature_losses, **seen.map_losses}
        assert [id(value) for value in after.values()] == [id(value) for value in before.values()]


def test_queries_of_checkpointed_layers_are_gone_after_the_forward_pass() -> None:
    """What AA's own checkpoint is given would outlive the block's, 136 MB on SDXL."""
    base = tuned_base()
    base.prepare_training(32, gradient_checkpointing=True)
    queries: list[weakref.ref[Any]] = []
    with watched(base).watch(torch.ones(2, 8, 8), all_tokens()) as seen:
        with reference_pass(base.denoiser):
            output(base)
        seen.is_tuned = True

        def note(_module: torch.nn.Module, _inputs: Any, query: Tensor) -> None:
            queries.append(weakref.ref(query))

        for name in base.watched_layers.maps:
            base.denoiser.get_submodule(f"{name}.to_q").register_forward_hook(note)
        prediction = output(base)
        assert len(queries) == len(base.watched_layers.maps)
        assert not any(query() is not None for query in queries)
        seen.alignment().sum().backward()
    assert prediction.requires_grad


def test_attention_maps_by_hand() -> None:
    query = torch.tensor([[[[1.0, 0.0]], [[0.0, 2.0]]]])
    key = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 1.0]]]])
    maps = attention_map(query, key)
    first = torch.softmax(torch.tensor([1.0, 0.0]) / 2**0.5, dim=0)
    second = torch.softmax(torch.tensor([0.0, 2.0]) / 2**0.5, dim=0)
    torch.testing.assert_close(maps, torch.stack([first, second])[None, :, None])


def test_words_that_share_a_row_with_other_keys_keep_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """Joint attention: pixels answer too, the words stand somewhere in the middle, and not every position is compared."""
    monkeypatch.setattr(watch, "MOST_NUMBERS", 2 * 6)
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 2, count, 4, generator=generator) for count in (16, 9))
    tokens = TokenPairs(torch.tensor([1, 2]), torch.tensor([1, 2]))
    rows = list(range(16))[compared_rows("layer", 16, 2, shift=5)]
    assert len(rows) > 4
    mask = torch.ones(1, 4, 4)
    mask.view(-1)[rows[1]] = 0
    seen = Watched(mask, tokens, WatchedLayers((), ("layer",)), shift=5)
    seen.on_attention("layer", Attention(query, key, text_start=4))
    whole = attention_map(query, key)
    torch.testing.assert_close(seen.reference_maps["layer"], whole[:, :, rows][..., [5, 6]])
    seen.is_tuned = True
    inside = [row for row in rows if row != rows[1]]
    moved = query + 1  # where no photo is, and where nobody looks
    moved[:, :, inside] = query[:, :, inside]
    seen.on_attention("layer", Attention(moved, key, text_start=4))
    assert float(seen.alignment()) == 0
    moved[:, :, rows[0]] += 1
    seen.map_losses.clear()
    seen.on_attention("layer", Attention(moved, key, text_start=4))
    difference = (attention_map(moved, key) - whole)[..., [5, 6]].square().mean(dim=(1, 3))
    torch.testing.assert_close(seen.alignment(), difference[:, [rows[0]]].sum(dim=1) / (len(rows) - 1))


def test_positions_of_large_pictures_take_turns() -> None:
    assert compared_rows("layer", 512, 12, shift=3) == slice(0, None, 1)
    rows = [set(range(4096)[compared_rows("layer", 4096, 9, shift)]) for shift in range(7)]
    assert max(map(len, rows)) * 9 <= watch.MOST_NUMBERS
    assert set.union(*rows) == set(range(4096))
    assert sum(map(len, rows)) == 4096  # seven steps, no position twice
    starts = {compared_rows(f"layer {number}", 4096, 9, shift=0).start for number in range(20)}
    assert len(starts) > 3  # layers look at different ones in the same step
    assert compared_rows("layer", 1024, 9, shift=0).step % 2  # 2 would be every other column of 32


def test_each_step_compares_other_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "MOST_NUMBERS", 16)
    compared: list[slice] = []
    real = compared_rows
    monkeypatch.setattr(watch, "compared_rows", lambda *args: compared.append(real(*args)) or compared[-1])
    step = step_of(tuned_base(), **{**OFF, "alignment": 1})
    steps: list[list[slice]] = []
    for number in (1, 2):
        run(step, range(number, number + 1))
        layers = len(compared) // 2
        assert compared[:layers] == compared[layers : 2 * layers]  # both passes look at the same
        steps.append(compared[:layers])
        compared.clear()
    for first, second in zip(*steps, strict=True):
        assert 1 < first.step == second.step
        assert second.start == (first.start + 1) % first.step


def test_masks_follow_the_layers_down() -> None:
    mask = torch.ones(1, 6, 6)
    mask[0, 0, 3] = 0
    assert position_mask(mask, 36).tolist() == mask.flatten(1).tolist()
    assert position_mask(mask, 9).tolist() == [[1, 0.75, 1, 1, 1, 1, 1, 1, 1]]
    assert position_mask(mask, 4).tolist() == [[0.9375, 1, 1, 1]]  # 3 x 3 positions become 2 x 2: 4, 2, 2 and 1 of them


def test_a_photo_of_one_cell_counts_in_every_layer() -> None:
    mask = torch.zeros(1, 16, 16)
    mask[0, 7, 9] = 1
    for count in (256, 64, 16, 4, 1):
        positions = position_mask(mask, count)
        assert float(positions.sum()) == count / 256
        mean, _ = channel_statistics(torch.full((1, count, 3), 5.0), positions)
        torch.testing.assert_close(mean, torch.full((1, 3), 5.0))
        maps = torch.zeros(1, 2, count, 7), torch.ones(1, 2, count, 7)
        torch.testing.assert_close(alignment(*maps, positions), torch.ones(1))


def test_the_identifier_is_left_out_when_the_reference_hears_the_class_alone() -> None:
    base = stable_diffusion()
    same = token_pairs(base, "a photo of a zwx car", "a photo of a zwx car")
    assert same.tuned.tolist() == same.reference.tolist() == list(range(8))
    pairs = token_pairs(base, "a photo of a zwx car", "a photo of a car")
    assert pairs.tuned.tolist() == [0, 1, 2, 3, 4, 6, 7]
    assert pairs.reference.tolist() == list(range(7))
    ids = base.caption_tokens("a photo of a zwx car").ids
    assert tuple(ids[place] for place in pairs.tuned) == base.caption_tokens("a photo of a car").ids


def test_a_subject_that_is_named_twice_loses_both_identifiers() -> None:
    base = stable_diffusion()
    tuned, reference = "a zwx car on the beach in a zwx car", "a car on the beach in a car"
    pairs = token_pairs(base, tuned, reference)
    ids, other_ids = base.caption_tokens(tuned).ids, base.caption_tokens(reference).ids
    assert [ids[place] for place in pairs.tuned] == [other_ids[place] for place in pairs.reference] == list(other_ids)
    assert pairs.tuned.tolist() == [0, 1, 3, 4, 5, 6, 7, 8, 10, 11]


def test_a_caption_that_is_too_long_says_so() -> None:
    base = stable_diffusion()
    longest = base.caption_tokens(" ".join(["cat"] * 75))
    assert (len(longest.ids), longest.is_cut) == (77, False)
    cut = base.caption_tokens(" ".join(["cat"] * 76))
    assert (len(cut.ids), cut.columns, cut.is_cut) == (77, tuple(range(77)), True)
