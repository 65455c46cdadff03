"""Several LoRAs at once: what each changes is added up, as diffusers' own pipeline does it; what does not go together is said."""

import contextlib
import dataclasses
import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from torch import Tensor

from apt_engine.bases import random
from apt_engine.bases.base import BaseModel
from apt_engine.errors import LoraError
from apt_engine.lora import adapter, files, kohya, stack
from apt_engine.lora.adapter import bare
from apt_engine.sampling.sampler import Picture, Sampler
from tests.engine.test_bases import stable_diffusion, stable_diffusion_xl
from tests.engine.test_lycoris import CONVOLUTION, QUERY, loha, lokr
from tests.foreign_loras import PARTS, _kohya, draw_layers
from tests.loras import predict
from tests.toy import toy_pipeline, toy_xl_pipeline

ASKED = Picture(prompt="a car on the beach", negative_prompt="a dog", seed=3, steps=2, width=32, height=32)


def write_ours(base: BaseModel, path: Path) -> None:
    adapter.attach(base.denoiser, 4, 8.0, base.lora.all, seed=1)
    generator = torch.Generator().manual_seed(2)
    for parameter in adapter.trainable_parameters(base.denoiser).values():
        parameter.data += torch.randn(parameter.shape, generator=generator) * 0.1
    files.save(base, path)
    adapter.detach(base.denoiser)


def write_kohya(base: BaseModel, path: Path, parts: tuple[str, ...] = ("unet",), size: float = 0.3) -> None:
    """With the rank as alpha: of text encoders diffusers loses any other."""
    layers = draw_layers(base, parts, "all", is_mixed=False, dtype=torch.float32)
    save_file(_kohya(base, [dataclasses.replace(one, down=one.down * size, alpha=4.0) for one in layers]), path)


def write_dora(base: BaseModel, path: Path) -> None:
    layers = draw_layers(base, ("unet",), "all", is_mixed=False, dtype=torch.float32)
    scales = {
        f"lora_unet_{layer.name.replace('.', '_')}.dora_scale": torch.linspace(0.5, 2, len(layer.up))[:, None]
        for layer in layers
    }
    save_file(_kohya(base, [dataclasses.replace(one, up=one.up * 0.3) for one in layers]) | scales, path)


def write_lycoris(base: BaseModel, path: Path, *, is_loha: bool) -> None:
    tensors: dict[str, Tensor] = {}
    for name in (QUERY, CONVOLUTION):
        weight: Any = bare(base.denoiser.get_submodule(name)).weight
        own, _ = loha(weight, 3, has_tucker=False) if is_loha else lokr(weight, 3, "second of a rank")
        stem = kohya.known_as(base.lora.kohya, name)[-1]
        tensors |= {f"{stem}.{key}": value.contiguous().clone() for key, value in own.items()}
    save_file(tensors, path)


WRITERS: dict[str, Callable[[BaseModel, Path], None]] = {
    "ours": write_ours,
    "kohya": write_kohya,
    "DoRA": write_dora,
    "LoHa": lambda base, path: write_lycoris(base, path, is_loha=True),
    "LoKr": lambda base, path: write_lycoris(base, path, is_loha=False),
}


def weights(base: BaseModel) -> dict[str, Tensor]:
    """The layers that any of the files changes, as they are inside `fused`."""
    layers = {QUERY: base.denoiser.get_submodule(QUERY), CONVOLUTION: base.denoiser.get_submodule(CONVOLUTION)}
    found: dict[str, Any] = {name: bare(layer) for name, layer in layers.items()}
    return {name: layer.weight.detach().clone() for name, layer in found.items()}


def changes(base: BaseModel, loras: list[tuple[Path, float]]) -> dict[str, Tensor]:
    before = weights(base)
    stack.put_on(base, loras)
    with adapter.fused(base.denoiser):
        return {name: after - before[name] for name, after in weights(base).items()}


@pytest.mark.parametrize("family", ["sd", "sdxl"])
@pytest.mark.parametrize("is_fused", [True, False])
def test_pictures_of_two_are_diffusers_own(family: str, is_fused: bool, tmp_path: Path) -> None:
    """One of ours and one of another program, with text encoders; each strength counts."""
    base = stable_diffusion() if family == "sd" else stable_diffusion_xl()
    stock: Any = toy_pipeline() if family == "sd" else toy_xl_pipeline()
    stock.scheduler = base.pipeline.scheduler
    ours, other = tmp_path / "ours.safetensors", tmp_path / "other.safetensors"
    write_ours(base, ours)
    write_kohya(base, other, PARTS[family], size=0.05)
    with warnings.catch_warnings(action="ignore"):  # PEFT's, that there are two
        stock.load_lora_weights(str(ours), adapter_name="ours")
        stock.load_lora_weights(str(other), adapter_name="other")

    def theirs(*strengths: float) -> Tensor:
        stock.set_adapters(["ours", "other"], list(strengths))
        noise = torch.randn(1, 4, 8, 8, generator=random.generator(3, 0, 0, "sample"))
        said: dict[str, Any] = {"prompt": ASKED.prompt, "negative_prompt": ASKED.negative_prompt, "guidance_scale": 5.0}
        return stock(latents=noise, width=32, height=32, num_inference_steps=2, output_type="pt", **said).images

    stack.put_on(base, [(other, 0.4), (ours, 0.7)])
    with adapter.fused(base.denoiser) if is_fused else contextlib.nullcontext():
        picture = base.decode(next(Sampler(base).latents([ASKED])))
    torch.testing.assert_close(picture, theirs(0.7, 0.4), rtol=0, atol=2e-4)
    for others in ((0.4, 0.7), (0.7, 0.0), (0.0, 0.4)):
        assert (picture - theirs(*others)).abs().max() > 5e-3


@pytest.mark.parametrize("kinds", itertools.combinations_with_replacement(WRITERS, 2), ids=" and ".join)
def test_two_of_any_kinds_change_a_layer_by_the_sum_of_both(kinds: tuple[str, str], tmp_path: Path) -> None:
    base = stable_diffusion()
    before = {key: value.clone() for key, value in base.denoiser.state_dict().items()}
    untouched = predict(base)
    loras: list[tuple[Path, float]] = []
    for number, kind in enumerate(kinds):
        loras.append((tmp_path / f"{number}.safetensors", 0.8 - 0.5 * number))
        WRITERS[kind](base, loras[-1][0])
    if kinds == ("DoRA", "DoRA"):
        with pytest.raises(LoraError, match=r"0\.safetensors and 1\.safetensors are both DoRA files"):
            stack.put_on(base, loras)
        return
    one, other = (changes(base, [lora]) for lora in loras)
    both = changes(base, loras)
    for name, change in both.items():
        assert torch.allclose(change, one[name] + other[name], atol=2e-5)
        assert float(one[name].abs().max()) > 0.01
        assert float(other[name].abs().max()) > 0.01
    beside = predict(base)
    assert float((beside - untouched).abs().max()) > 0.05
    with adapter.fused(base.denoiser):
        assert float((predict(base) - beside).abs().max()) < 1e-3
    assert torch.equal(predict(base), beside)
    stack.put_on(base, [])
    assert not any(isinstance(module, BaseTunerLayer) for module in base.denoiser.modules())
    assert all(torch.equal(value, before[key]) for key, value in base.denoiser.state_dict().items())


def test_one_for_another_family_among_several_is_named_and_none_stays(tmp_path: Path) -> None:
    base, ours, other = stable_diffusion(), tmp_path / "ours.safetensors", tmp_path / "large.safetensors"
    write_ours(base, ours)
    write_kohya(stable_diffusion_xl(), other)
    bare_picture = predict(base)
    with pytest.raises(LoraError, match=r"large\.safetensors was made for another base model than toy"):
        stack.put_on(base, [(ours, 1.0), (other, 1.0)])
    assert torch.equal(predict(base), bare_picture)
