"""What FLUX.2 klein lets be seen of its layers, and that it reaches the LoRA."""

from typing import Any

import pytest
import torch
from torch import Tensor

from apt_engine.bases.base import Attention
from apt_engine.bases.klein import Klein
from apt_engine.errors import BaseModelError
from apt_engine.training.watch import attention_map
from tests.klein import toy_klein
from tests.laws import OFF, gradients, output, run, step_of, tuned_base


def seen_by(base: Klein) -> tuple[dict[str, Attention], dict[str, Tensor]]:
    """What one pass lets be seen."""
    attentions: dict[str, Attention] = {}
    features: dict[str, Tensor] = {}
    with torch.no_grad(), base.watch(features.__setitem__, attentions.__setitem__):
        output(base)
    return attentions, features


def test_what_is_seen_is_what_the_layers_attend_with() -> None:
    """softmax(QK) of the queries and keys that are seen, times the values that the projections make, must be the features."""
    base = tuned_base("klein")
    assert isinstance(base, Klein)
    values: dict[str, list[Tensor]] = {}
    for name in base.watched_layers.maps:
        layer: Any = base.denoiser.get_submodule(name)
        for part in ("add_v_proj", "to_v", "to_qkv_mlp_proj"):
            if hasattr(layer, part):
                getattr(layer, part).register_forward_hook(
                    lambda _module, _inputs, projected, name=name: values.setdefault(name, []).append(projected)
                )
    expected = output(base)
    values.clear()
    attentions, features = seen_by(base)
    assert list(attentions) == list(features) == list(base.watched_layers.maps)
    assert len(attentions) == 3
    assert {name.partition(".")[0] for name in attentions} == {"transformer_blocks", "single_transformer_blocks"}
    for name, attention in attentions.items():
        if name.startswith("single"):
            value = values[name][0].split(16, dim=-1)[2]
        else:
            value = torch.cat(sorted(values[name], key=lambda part: -part.shape[1]), dim=1)
        maps = attention_map(attention.query, attention.key)
        mixed = (maps @ value.unflatten(-1, (2, 8)).transpose(1, 2)).transpose(1, 2).flatten(2)
        assert attention.query.shape[2] == 16
        torch.testing.assert_close(mixed, features[name], rtol=1e-4, atol=1e-5)
    assert torch.equal(output(base), expected)
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in base.denoiser.modules() if not values
    )


def test_attention_by_other_means_is_noticed_before_anything_is_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_hand(query: Tensor, key: Tensor, value: Tensor, **_: object) -> Tensor:
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        return (attention_map(query, key) @ value).transpose(1, 2)

    base = tuned_base("klein")
    with torch.no_grad():
        expected = output(base)
        monkeypatch.setattr("diffusers.models.transformers.transformer_flux2.dispatch_attention_fn", by_hand)
        torch.testing.assert_close(output(base), expected, rtol=1e-4, atol=1e-5)
    learnt: list[Tensor] = []
    with pytest.raises(BaseModelError, match="No layer of this base model was seen at work; set alignment to 0"):
        step_of(base)(1, learnt.append)
    assert not learnt


def test_an_exception_inside_a_layer_leaves_no_watching_behind() -> None:
    base = toy_klein()
    layer: Any = base.denoiser.get_submodule(base.watched_layers.maps[-1])
    hook = layer.norm_q.register_forward_hook(lambda *_: 1 / 0)
    seen: list[str] = []
    with pytest.raises(ZeroDivisionError), base.watch(None, lambda name, _attention: seen.append(name)):
        output(base)
    hook.remove()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in base.denoiser.modules())
    seen.clear()
    output(base)
    ones = torch.ones(1, 1, 2, 4)
    torch.nn.functional.scaled_dot_product_attention(ones, ones, ones)
    assert not seen


@pytest.mark.parametrize("kind", ["klein", "z-image"])
@pytest.mark.parametrize("part", ["stabilization", "alignment"])
def test_features_and_maps_each_reach_the_lora(part: str, kind: str) -> None:
    found = []
    for settings in (OFF, {**OFF, part: 100}):
        base = tuned_base(kind)
        run(step_of(base, **settings))
        found.append(gradients(base))
    assert any(not torch.allclose(found[0][name], value) for name, value in found[1].items())
