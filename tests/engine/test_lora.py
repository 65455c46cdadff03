"""The LoRA on a denoiser: attached, scaled, taken off, kept and set again."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft.utils import get_peft_model_state_dict
from torch import Tensor

from apt_engine.bases.base import BaseModel
from apt_engine.errors import LoraError
from apt_engine.lora import adapter, files
from tests.engine.test_bases import stable_diffusion
from tests.loras import (
    ATTENTION,
    EFFECT,
    HALF_TOLERANCE,
    LAYERS,
    LAYOUTS,
    SHAPES_OF_SETTINGS,
    WITH_CONVOLUTIONS,
    WITH_FEED_FORWARD,
    Write,
    difference,
    predict,
    trained,
    write_kohya,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lora.safetensors"


def test_a_new_lora_changes_nothing_and_is_all_that_learns() -> None:
    base, bare = stable_diffusion(), stable_diffusion()
    stream = torch.get_rng_state()
    adapter.attach(base.denoiser, 4, 8.0, ATTENTION, seed=0)
    assert torch.equal(torch.get_rng_state(), stream)
    assert difference(base, bare) == 0
    learning = [parameter for parameter in base.denoiser.parameters() if parameter.requires_grad]
    parameters = adapter.trainable_parameters(base.denoiser)
    assert [id(parameter) for parameter in learning] == [id(parameter) for parameter in parameters.values()]
    for name, parameter in parameters.items():
        assert parameter.any() == name.endswith("lora_A.weight")


def test_the_first_weights_depend_on_seed_and_layer_alone() -> None:
    def first(seed: int, endings: tuple[str, ...] = ATTENTION, draws: int = 0) -> dict[str, Tensor]:
        base = stable_diffusion()
        torch.rand(draws)
        adapter.attach(base.denoiser, 4, 4.0, endings, seed)
        return {
            name: value.detach()
            for name, value in adapter.trainable_parameters(base.denoiser).items()
            if "lora_A" in name
        }

    one = first(1)
    assert all(torch.equal(one[name], value) for name, value in first(1, draws=5).items())
    more = first(1, endings=LAYERS.all)
    assert len(more) > len(one)
    assert all(torch.equal(more[name], value) for name, value in one.items())
    assert not any(torch.equal(one[name], value) for name, value in first(2).items())
    flat = torch.cat([value.flatten() for name, value in one.items() if ".attn1.to_q." in name])
    assert len(flat.unique()) == len(flat)
    assert float(flat.abs().max()) <= 16**-0.5  # kaiming: uniform within 1 / sqrt(in)


def test_names_are_those_of_peft() -> None:
    base = trained(endings=LAYERS.all)
    assert list(adapter.trainable_parameters(base.denoiser)) == list(
        get_peft_model_state_dict(base.denoiser, adapter_name=adapter.ADAPTER)
    )


@pytest.mark.parametrize("load", [files.load, files.load_exported])
def test_the_lora_is_fp32_on_a_half_precision_base(path: Path, load: Callable[[BaseModel, Path], object]) -> None:
    half = stable_diffusion()
    half.denoiser.to(torch.bfloat16)
    adapter.attach(half.denoiser, 4, 8.0, ATTENTION, seed=0)
    assert {value.dtype for value in adapter.trainable_parameters(half.denoiser).values()} == {torch.float32}
    base = trained()
    files.save(base, path)
    load(half, path)
    assert half.pipeline.unet.conv_in.weight.dtype == torch.bfloat16
    for name, value in adapter.trainable_parameters(half.denoiser).items():
        assert value.dtype == torch.float32
        assert torch.equal(value, adapter.trainable_parameters(base.denoiser)[name])
    assert difference(half, base) < EFFECT < difference(half, stable_diffusion())


def test_what_cannot_be_attached_is_explained() -> None:
    base = stable_diffusion()
    with pytest.raises(
        LoraError, match=r"rank cannot be 17: layer \S+attn\d\.to_\S+ of this base model allows at most 16"
    ):
        adapter.attach(base.denoiser, 17, 17, ATTENTION, seed=0)
    assert not adapter.trainable_parameters(base.denoiser)
    adapter.attach(base.denoiser, 16, 16, ATTENTION, seed=0)
    convolutions = UNet2DConditionModel(
        block_out_channels=(8,),
        layers_per_block=1,
        down_block_types=("DownBlock2D",),
        mid_block_type=None,
        up_block_types=("UpBlock2D",),
        norm_num_groups=4,
    )
    with pytest.raises(LoraError, match="no layers that a LoRA could train"):
        adapter.attach(convolutions, 4, 4, ATTENTION, seed=0)


def test_strength_scales_the_effect_and_never_the_file(path: Path) -> None:
    base, bare = trained(), stable_diffusion()
    full = predict(base)
    adapter.set_strength(base.denoiser, 0)
    assert difference(base, bare) == 0
    adapter.set_strength(base.denoiser, 2)
    files.save(base, path)
    write_kohya(base, path.with_stem("kohya"))
    doubled, twice = predict(base), trained(alpha=16.0)
    torch.testing.assert_close(doubled, predict(twice))
    assert float((doubled - full).abs().max()) > EFFECT
    adapter.set_strength(base.denoiser, 1)
    assert torch.equal(predict(base), full)
    for file in (path, path.with_stem("kohya")):
        fresh = stable_diffusion()
        files.load(fresh, file)
        assert difference(fresh, base) < HALF_TOLERANCE


def test_detaching_gives_the_bare_model_back(path: Path) -> None:
    base, bare = trained(endings=LAYERS.all), stable_diffusion()
    adapter.detach(base.denoiser)
    adapter.detach(base.denoiser)
    assert list(base.denoiser.state_dict()) == list(bare.denoiser.state_dict())
    assert difference(base, bare) == 0
    assert adapter.trainable_parameters(base.denoiser) == {}
    adapter.attach(base.denoiser, 2, 2.0, ATTENTION, seed=0)
    files.save(trained(), path)
    files.load(base, path)
    assert difference(base, trained()) == 0


@pytest.mark.parametrize(("rank", "alpha", "endings"), SHAPES_OF_SETTINGS)
def test_a_checkpoint_comes_back_bit_for_bit(path: Path, rank: int, alpha: float, endings: tuple[str, ...]) -> None:
    base, fresh = trained(rank, alpha, endings), stable_diffusion()
    files.save(base, path)
    stream = torch.get_rng_state()
    files.load(fresh, path)
    assert torch.equal(torch.get_rng_state(), stream)
    assert difference(fresh, stable_diffusion()) > EFFECT
    assert difference(fresh, base) == 0
    again = path.with_stem("again")
    files.save(fresh, again)
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("write", LAYOUTS)
def test_equal_weights_give_equal_bytes(tmp_path: Path, write: Write) -> None:
    """safetensors shuffles its header's entries at every call, so several calls are compared."""
    contents = set()
    for number in range(4):
        write(trained(), tmp_path / f"{number}.safetensors")
        contents.add((tmp_path / f"{number}.safetensors").read_bytes())
    assert len(contents) == 1


def test_weights_are_set_in_place(path: Path) -> None:
    base, resumed = trained(), stable_diffusion()
    files.save(base, path)
    adapter.attach(resumed.denoiser, 4, 8.0, ATTENTION, seed=9)
    before = adapter.trainable_parameters(resumed.denoiser)
    files.load_weights(resumed, path)
    after = adapter.trainable_parameters(resumed.denoiser)
    assert all(after[name] is parameter and parameter.requires_grad for name, parameter in before.items())
    assert difference(resumed, base) == 0


@pytest.mark.parametrize(
    ("rank", "alpha", "endings", "words"),
    [
        (2, 8.0, ATTENTION, "another base model"),
        (4, 4.0, ATTENTION, "set alpha to 8"),
        (4, 8.0, WITH_FEED_FORWARD, "another base model"),
        (4, 8.0, WITH_CONVOLUTIONS, "another base model"),
    ],
)
def test_weights_of_another_lora_are_refused(
    path: Path, rank: int, alpha: float, endings: tuple[str, ...], words: str
) -> None:
    files.save(trained(4, 8.0), path)
    base = stable_diffusion()
    adapter.attach(base.denoiser, rank, alpha, endings, seed=0)
    before = predict(base)
    with pytest.raises(LoraError, match=words):
        files.load_weights(base, path)
    assert torch.equal(predict(base), before)


@pytest.mark.parametrize("write", LAYOUTS)
@pytest.mark.parametrize(("rank", "alpha", "endings"), SHAPES_OF_SETTINGS)
def test_a_stock_pipeline_reads_each_layout(
    path: Path, toy_base: Path, write: Write, rank: int, alpha: float, endings: tuple[str, ...]
) -> None:
    base = trained(rank, alpha, endings)
    write(base, path)
    pipeline = StableDiffusionPipeline.from_pretrained(toy_base)
    pipeline.load_lora_weights(path.parent, weight_name=path.name)
    assert difference(pipeline.unet, stable_diffusion()) > EFFECT
    assert difference(pipeline.unet, base) < HALF_TOLERANCE
