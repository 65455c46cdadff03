"""The LoRA and its files: each file is read back by a fresh model, ours and diffusers' own reader, and must draw the same."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from peft.utils import get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from apt_engine import kohya, lora
from apt_engine.errors import LoraError
from tests.toy import POOLED_WIDTH, TOKEN_WIDTH, toy_pipeline, toy_xl_pipeline

ABOUT = kohya.ExportInfo(
    name="zwx_car-000300",
    base_model_version="sd_v1",
    prediction_type="epsilon",
    resolution=512,
    trigger_phrase="zwx car",
)
HALF_TOLERANCE = 2e-4  # of outputs with a standard deviation of 0.28
EFFECT = 0.03  # what the LoRA of `trained` changes at least; a wrong alpha changes more than that
ATTENTION = lora.ATTENTION_LAYERS
WITH_FEED_FORWARD = lora.kinds_of(feed_forward=True, convolutions=False)
WITH_CONVOLUTIONS = lora.kinds_of(feed_forward=False, convolutions=True)
SHAPES_OF_SETTINGS = [
    (4, 4.0, ATTENTION),
    (4, 8.0, ATTENTION),
    (4, 1.5, WITH_FEED_FORWARD),
    (4, 2.0, WITH_CONVOLUTIONS),
    (4, 4.0, lora.ALL_LAYERS),
]

Write = Callable[[nn.Module, Path], None]


def write_kohya(denoiser: nn.Module, path: Path) -> None:
    lora.export_kohya(denoiser, path, ABOUT)


LAYOUTS: list[Write] = [lora.save, lora.export_diffusers, write_kohya]


def trained(rank: int = 4, alpha: float = 8.0, kinds: tuple[str, ...] = ATTENTION) -> UNet2DConditionModel:
    """A toy whose LoRA does something: with B still zero every comparison below would hold for an empty file."""
    unet = toy_pipeline().unet
    lora.attach(unet, rank, alpha, kinds, seed=1)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in lora.trainable_parameters(unet).items():
        if name.endswith("lora_B.weight"):
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.2
    return unet


@torch.no_grad()
def predict(unet: UNet2DConditionModel) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    latents, states = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 7, TOKEN_WIDTH, generator=generator)
    return unet(latents.to(unet.dtype), 500, states.to(unet.dtype)).sample.float()


def difference(one: UNet2DConditionModel, other: UNet2DConditionModel) -> float:
    return float((predict(one) - predict(other)).abs().max())


def header(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def rewrite(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors, about = load_file(path), header(path)
    change(tensors)
    save_file(tensors, path, about)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lora.safetensors"


def test_a_new_lora_changes_nothing_and_is_all_that_learns() -> None:
    unet, bare = toy_pipeline().unet, toy_pipeline().unet
    stream = torch.get_rng_state()
    lora.attach(unet, 4, 8.0, ATTENTION, seed=0)
    assert torch.equal(torch.get_rng_state(), stream)
    assert difference(unet, bare) == 0
    learning = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    parameters = lora.trainable_parameters(unet)
    assert [id(parameter) for parameter in learning] == [id(parameter) for parameter in parameters.values()]
    for name, parameter in parameters.items():
        assert parameter.any() == name.endswith("lora_A.weight")


def test_the_first_weights_depend_on_seed_and_layer_alone() -> None:
    def first(seed: int, kinds: tuple[str, ...] = ATTENTION, draws: int = 0) -> dict[str, Tensor]:
        unet = toy_pipeline().unet
        torch.rand(draws)
        lora.attach(unet, 4, 4.0, kinds, seed)
        return {name: value.detach() for name, value in lora.trainable_parameters(unet).items() if "lora_A" in name}

    one = first(1)
    assert all(torch.equal(one[name], value) for name, value in first(1, draws=5).items())
    more = first(1, kinds=lora.ALL_LAYERS)
    assert len(more) > len(one)
    assert all(torch.equal(more[name], value) for name, value in one.items())
    assert not any(torch.equal(one[name], value) for name, value in first(2).items())
    flat = torch.cat([value.flatten() for name, value in one.items() if ".attn1.to_q." in name])
    assert len(flat.unique()) == len(flat)
    assert float(flat.abs().max()) <= 16**-0.5  # kaiming: uniform within 1 / sqrt(in)


def test_names_are_those_of_peft() -> None:
    unet = trained(kinds=lora.ALL_LAYERS)
    assert list(lora.trainable_parameters(unet)) == list(get_peft_model_state_dict(unet, adapter_name=lora.ADAPTER))


@pytest.mark.parametrize("load", [lora.load, lora.load_exported])
def test_the_lora_is_fp32_on_a_half_precision_base(path: Path, load: Callable[[nn.Module, Path], object]) -> None:
    half = toy_pipeline().unet.to(torch.bfloat16)
    lora.attach(half, 4, 8.0, ATTENTION, seed=0)
    assert {value.dtype for value in lora.trainable_parameters(half).values()} == {torch.float32}
    unet = trained()
    lora.save(unet, path)
    load(half, path)
    assert half.conv_in.weight.dtype == torch.bfloat16
    for name, value in lora.trainable_parameters(half).items():
        assert value.dtype == torch.float32
        assert torch.equal(value, lora.trainable_parameters(unet)[name])
    assert difference(half, unet) < EFFECT < difference(half, toy_pipeline().unet)


def test_what_cannot_be_attached_is_explained() -> None:
    unet = toy_pipeline().unet
    with pytest.raises(
        LoraError, match=r"rank cannot be 17: layer \S+attn\d\.to_\S+ of this base model allows at most 16"
    ):
        lora.attach(unet, 17, 17, ATTENTION, seed=0)
    assert all(parameter.requires_grad for parameter in unet.parameters())
    lora.attach(unet, 16, 16, ATTENTION, seed=0)
    convolutions = UNet2DConditionModel(
        block_out_channels=(8,),
        layers_per_block=1,
        down_block_types=("DownBlock2D",),
        mid_block_type=None,
        up_block_types=("UpBlock2D",),
        norm_num_groups=4,
    )
    with pytest.raises(LoraError, match="no attention layers to train"):
        lora.attach(convolutions, 4, 4, ATTENTION, seed=0)


def test_strength_scales_the_effect_and_never_the_file(path: Path) -> None:
    unet, bare = trained(), toy_pipeline().unet
    full = predict(unet)
    lora.set_strength(unet, 0)
    assert difference(unet, bare) == 0
    lora.set_strength(unet, 2)
    lora.save(unet, path)
    write_kohya(unet, path.with_stem("kohya"))
    doubled, twice = predict(unet), trained(alpha=16.0)
    torch.testing.assert_close(doubled, predict(twice))
    assert float((doubled - full).abs().max()) > EFFECT
    lora.set_strength(unet, 1)
    assert torch.equal(predict(unet), full)
    for file in (path, path.with_stem("kohya")):
        fresh = toy_pipeline().unet
        lora.load(fresh, file)
        assert difference(fresh, unet) < HALF_TOLERANCE


def test_detaching_gives_the_bare_model_back(path: Path) -> None:
    unet, bare = trained(kinds=lora.ALL_LAYERS), toy_pipeline().unet
    lora.detach(unet)
    lora.detach(unet)
    assert list(unet.state_dict()) == list(bare.state_dict())
    assert difference(unet, bare) == 0
    assert lora.trainable_parameters(unet) == {}
    lora.attach(unet, 2, 2.0, ATTENTION, seed=0)
    lora.save(trained(), path)
    lora.load(unet, path)
    assert difference(unet, trained()) == 0


@pytest.mark.parametrize(("rank", "alpha", "kinds"), SHAPES_OF_SETTINGS)
def test_a_checkpoint_comes_back_bit_for_bit(path: Path, rank: int, alpha: float, kinds: tuple[str, ...]) -> None:
    unet, fresh = trained(rank, alpha, kinds), toy_pipeline().unet
    lora.save(unet, path)
    stream = torch.get_rng_state()
    lora.load(fresh, path)
    assert torch.equal(torch.get_rng_state(), stream)
    assert difference(fresh, toy_pipeline().unet) > EFFECT
    assert difference(fresh, unet) == 0
    again = path.with_stem("again")
    lora.save(fresh, again)
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
    unet, resumed = trained(), toy_pipeline().unet
    lora.save(unet, path)
    lora.attach(resumed, 4, 8.0, ATTENTION, seed=9)
    before = lora.trainable_parameters(resumed)
    lora.load_weights(resumed, path)
    after = lora.trainable_parameters(resumed)
    assert all(after[name] is parameter and parameter.requires_grad for name, parameter in before.items())
    assert difference(resumed, unet) == 0


@pytest.mark.parametrize(
    ("rank", "alpha", "kinds", "words"),
    [
        (2, 8.0, ATTENTION, "another base model"),
        (4, 4.0, ATTENTION, "set alpha to 8"),
        (4, 8.0, WITH_FEED_FORWARD, "another base model"),
        (4, 8.0, WITH_CONVOLUTIONS, "another base model"),
    ],
)
def test_weights_of_another_lora_are_refused(
    path: Path, rank: int, alpha: float, kinds: tuple[str, ...], words: str
) -> None:
    lora.save(trained(4, 8.0), path)
    unet = toy_pipeline().unet
    lora.attach(unet, rank, alpha, kinds, seed=0)
    before = predict(unet)
    with pytest.raises(LoraError, match=words):
        lora.load_weights(unet, path)
    assert torch.equal(predict(unet), before)


@pytest.mark.parametrize("write", LAYOUTS)
@pytest.mark.parametrize(("rank", "alpha", "kinds"), SHAPES_OF_SETTINGS)
def test_a_stock_pipeline_reads_each_layout(
    path: Path, toy_base: Path, write: Write, rank: int, alpha: float, kinds: tuple[str, ...]
) -> None:
    unet = trained(rank, alpha, kinds)
    write(unet, path)
    pipeline = StableDiffusionPipeline.from_pretrained(toy_base)
    pipeline.load_lora_weights(path.parent, weight_name=path.name)
    assert difference(pipeline.unet, toy_pipeline().unet) > EFFECT
    assert difference(pipeline.unet, unet) < HALF_TOLERANCE


@pytest.mark.parametrize(("write", "keys_a_layer"), [(lora.save, 2), (lora.export_diffusers, 2), (write_kohya, 3)])
@pytest.mark.parametrize(("rank", "alpha", "kinds"), SHAPES_OF_SETTINGS)
def test_an_exported_file_arrives_whole(
    path: Path, write: Write, keys_a_layer: int, rank: int, alpha: float, kinds: tuple[str, ...]
) -> None:
    unet, fresh = trained(rank, alpha, kinds), toy_pipeline().unet
    write(unet, path)
    layers = len(lora.trainable_parameters(unet)) // 2
    stream = torch.get_rng_state()
    assert lora.load_exported(fresh, path) == keys_a_layer * layers == len(load_file(path))
    assert torch.equal(torch.get_rng_state(), stream)
    assert difference(fresh, unet) < HALF_TOLERANCE
    lora.load(fresh, path)
    assert difference(fresh, unet) < HALF_TOLERANCE


def first_key(tensors: dict[str, Tensor], ending: str) -> str:
    return next(key for key in sorted(tensors) if key.endswith(ending))


@pytest.mark.parametrize("load", [lora.load, lora.load_exported])
@pytest.mark.parametrize(
    ("write", "ending"),
    [
        (write_kohya, ".alpha"),
        (write_kohya, ".lora_up.weight"),
        (write_kohya, ".lora_down.weight"),
        (lora.save, ".lora_A.weight"),
    ],
)
def test_a_key_that_is_missing_renamed_or_misshapen_is_named(
    path: Path, load: Callable[[nn.Module, Path], object], write: Write, ending: str
) -> None:
    def refused(change: Callable[[dict[str, Tensor]], object], words: str) -> None:
        write(trained(), path)
        rewrite(path, change)
        fresh = toy_pipeline().unet
        with pytest.raises(LoraError) as caught:
            load(fresh, path)
        assert words in str(caught.value)
        assert difference(fresh, toy_pipeline().unet) == 0

    write(trained(), path)
    key = first_key(load_file(path), ending)
    other = key.replace("attentions", "resnets")
    refused(lambda tensors: tensors.pop(key), f"it has no {key}")
    refused(lambda tensors: tensors.update({other: torch.zeros(1)}), f"the model has no place for {other}")
    refused(lambda tensors: tensors.update({key: torch.zeros(3, 5)}), f"{key} is (3, 5), not (")


def test_a_whole_block_that_is_missing_is_noticed(path: Path) -> None:
    """diffusers takes the layers from the file, so it loads such a file without a word."""

    def drop(tensors: dict[str, Tensor]) -> None:
        for key in [key for key in tensors if "mid_block" in key]:
            del tensors[key]

    write_kohya(trained(), path)
    rewrite(path, drop)
    with pytest.raises(LoraError, match="it has no lora_unet_mid_block"):
        lora.load_exported(toy_pipeline().unet, path)


def test_a_file_without_rank_and_alpha_is_refused(path: Path) -> None:
    lora.save(trained(), path)
    save_file(load_file(path), path, {"format": "pt"})
    for load in (lora.load, lora.load_exported):
        with pytest.raises(LoraError, match="does not say its rank and alpha"):
            load(toy_pipeline().unet, path)


def test_alphas_that_differ_by_layer_are_refused(path: Path) -> None:
    write_kohya(trained(), path)
    rewrite(path, lambda tensors: tensors.update({first_key(tensors, ".alpha"): torch.tensor(3.0)}))
    with pytest.raises(LoraError, match="different alphas"):
        lora.load_exported(toy_pipeline().unet, path)


def test_a_reader_that_makes_other_numbers_of_it_is_caught(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_kohya(trained(), path)
    read = StableDiffusionLoraLoaderMixin.lora_state_dict
    monkeypatch.setattr(StableDiffusionLoraLoaderMixin, "lora_state_dict", lambda tensors: (read(tensors)[0], None))
    fresh = toy_pipeline().unet
    with pytest.raises(LoraError, match="reads the LoRA file .* otherwise"):
        lora.load_exported(fresh, path)
    assert difference(fresh, toy_pipeline().unet) == 0


@pytest.mark.parametrize("content", [None, b"", b"hello, this is no LoRA", b"\xff" * 64])
def test_what_is_no_lora_file_is_named(path: Path, content: bytes | None) -> None:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LoraError, match=r"lora\.safetensors cannot be read"):
        lora.load(toy_pipeline().unet, path)


def test_a_truncated_file_is_named(path: Path) -> None:
    lora.save(trained(), path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(LoraError, match=r"lora\.safetensors cannot be read"):
        lora.load(toy_pipeline().unet, path)


@pytest.mark.parametrize("write", LAYOUTS)
def test_another_base_model_is_refused(path: Path, write: Write) -> None:
    write(trained(), path)
    config = {**toy_pipeline().unet.config, "cross_attention_dim": 24}
    with pytest.raises(LoraError, match=r"another base model or is damaged .*to_k.* is \(4, 32\), not \(4, 24\)"):
        lora.load(UNet2DConditionModel.from_config(config), path)


@pytest.mark.parametrize("value", [float("nan"), 1e5])
def test_what_fp16_cannot_hold_is_not_exported(path: Path, value: float) -> None:
    unet = trained()
    next(iter(lora.trainable_parameters(unet).values())).data[0, 0] = value
    for write in (lora.export_diffusers, write_kohya):
        with pytest.raises(LoraError, match=r"lora_A.weight is not finite; lower learning_rate"):
            write(unet, path)
        assert not path.exists()
    lora.save(unet, path)


def test_the_kohya_header_says_what_others_ask_for() -> None:
    assert kohya.header(ABOUT, 16, 8.0, has_convolutions=False) == {
        "format": "pt",
        "ss_base_model_version": "sd_v1",
        "ss_v2": "False",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "16",
        "ss_network_alpha": "8",
        "ss_network_args": "{}",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": "zwx_car-000300",
        "modelspec.resolution": "512x512",
        "modelspec.prediction_type": "epsilon",
        "modelspec.trigger_phrase": "zwx car",
    }
    velocity = kohya.ExportInfo(
        name="n", base_model_version="sd_v2", prediction_type="v_prediction", resolution=768, trigger_phrase="Ünï"
    )
    said = kohya.header(velocity, 16, 0.5, has_convolutions=True)
    assert said["ss_v2"] == "True"
    assert said["ss_network_alpha"] == "0.5"
    assert json.loads(said["ss_network_args"]) == {"conv_dim": "16", "conv_alpha": "0.5"}
    assert said["modelspec.architecture"] == "stable-diffusion-v2-768-v/lora"
    assert said["modelspec.prediction_type"] == "v"


@pytest.mark.parametrize("write", LAYOUTS)
def test_no_file_tells_where_it_was_made(tmp_path: Path, toy_base: Path, write: Write) -> None:
    unet = StableDiffusionPipeline.from_pretrained(toy_base).unet
    lora.attach(unet, 4, 4.0, ATTENTION, seed=0)
    path = tmp_path / "my private folder" / "lora.safetensors"
    write(unet, path)
    content = path.read_bytes()
    text = content[8 : 8 + int.from_bytes(content[:8], "little")].decode()
    assert json.loads(text)["__metadata__"]["format"] == "pt"
    for secret in (
        "private",
        "lora.safetensors",
        str(tmp_path),
        str(toy_base),
        toy_base.name,
        str(Path.home()),
        "\\\\",
    ):
        assert secret not in text
    assert text.replace("stable-diffusion-v1/lora", "").count("/") == 0


def test_the_kohya_header_gives_the_rank_of_convolutions_that_are_there(path: Path) -> None:
    for kinds in (WITH_FEED_FORWARD, WITH_CONVOLUTIONS):
        write_kohya(trained(kinds=kinds), path)
        assert ("conv_dim" in header(path)["ss_network_args"]) == (kinds is WITH_CONVOLUTIONS)


def test_kohya_tensors_are_half_precision_and_alpha_is_as_trained(path: Path) -> None:
    write_kohya(trained(4, 1.5), path)
    for key, value in load_file(path).items():
        if key.endswith(".alpha"):
            assert value.shape == ()
            assert float(value) == 1.5
        else:
            assert value.dtype == torch.float16


def trained_xl(rank: int = 4, alpha: float = 8.0, kinds: tuple[str, ...] = ATTENTION) -> UNet2DConditionModel:
    unet = toy_xl_pipeline().unet
    lora.attach(unet, rank, alpha, kinds, seed=1)
    generator = torch.Generator().manual_seed(2)
    for parameter in lora.trainable_parameters(unet).values():
        parameter.data += torch.randn(parameter.shape, generator=generator) * 0.2
    return unet


def write_xl(denoiser: nn.Module, path: Path) -> None:
    about = dataclasses.replace(ABOUT, base_model_version="sdxl_base_v1-0")
    lora.export_kohya(denoiser, path, about)


@pytest.mark.parametrize(("write", "keys_a_layer"), [(write_xl, 3), (lora.export_diffusers, 2), (lora.save, 2)])
@pytest.mark.parametrize(("rank", "alpha", "kinds"), SHAPES_OF_SETTINGS)
def test_xl_files_arrive_whole_also_in_a_stock_pipeline(
    path: Path, write: Write, keys_a_layer: int, rank: int, alpha: float, kinds: tuple[str, ...]
) -> None:
    unet, fresh, stock = trained_xl(rank, alpha, kinds), toy_xl_pipeline().unet, toy_xl_pipeline()
    write(unet, path)
    ours = lora.trainable_parameters(unet)
    assert lora.load_exported(fresh, path) == keys_a_layer * len(ours) // 2 == len(load_file(path))
    stock.load_lora_weights(path.parent, weight_name=path.name)
    lora.load(again := toy_xl_pipeline().unet, path)
    for other in (fresh, again):
        theirs = lora.trainable_parameters(other)
        assert theirs.keys() == ours.keys()
        assert all(torch.allclose(theirs[name], value, atol=1e-3) for name, value in ours.items())
    latents, states = torch.randn(1, 4, 8, 8), torch.randn(1, 7, 2 * TOKEN_WIDTH)
    added = {"text_embeds": torch.randn(1, POOLED_WIDTH), "time_ids": torch.tensor([[32, 32, 0, 0, 32, 32]])}
    with torch.no_grad():
        drawn = [
            model(latents, 500, states, added_cond_kwargs=added).sample
            for model in (unet, fresh, again, stock.unet, toy_xl_pipeline().unet)
        ]
    assert max(float((one - drawn[0]).abs().max()) for one in drawn[1:4]) < 10 * HALF_TOLERANCE
    assert (drawn[4] - drawn[0]).abs().max() > EFFECT


def test_xl_files_say_so_and_no_other_base_takes_them(path: Path) -> None:
    write_xl(trained_xl(), path)
    said = header(path)
    assert said["ss_base_model_version"].startswith("sdxl_")
    assert said["ss_v2"] == "False"
    assert said["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    with pytest.raises(LoraError, match="another base model"):
        lora.load(toy_pipeline().unet, path)
    write_kohya(trained(), path)
    with pytest.raises(LoraError, match="another base model"):
        lora.load_exported(toy_xl_pipeline().unet, path)


def test_a_base_that_other_programs_have_no_name_for_is_not_exported(path: Path) -> None:
    about = dataclasses.replace(ABOUT, base_model_version="sd_v9")
    with pytest.raises(LoraError, match=r"kind sd_v9 \(epsilon\) cannot be exported"):
        lora.export_kohya(trained(), path, about)
    assert not path.exists()


def test_stable_diffusion_xl_has_the_layers_other_programs_know() -> None:
    """Numbers and depths of the blocks are those of sd_xl_base.yaml in the original repository."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=128,
            block_out_channels=(320, 640, 1280),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            use_linear_projection=True,
            cross_attention_dim=2048,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )
    assert sum(parameter.numel() for parameter in unet.parameters()) == 2_567_463_684
    depths = {f"input_blocks_{number}_1": 2 for number in (4, 5)} | {
        f"input_blocks_{number}_1": 10 for number in (7, 8)
    }
    depths |= {"middle_block_1": 10} | {f"output_blocks_{number}_1": 10 for number in (0, 1, 2)}
    depths |= {f"output_blocks_{number}_1": 2 for number in (3, 4, 5)}
    attentions = {
        f"{place}_transformer_blocks_{number}_{attention}_{projection}"
        for place, depth in depths.items()
        for number in range(depth)
        for attention in ("attn1", "attn2")
        for projection in ("to_q", "to_k", "to_v", "to_out_0")
    }
    residuals = [f"input_blocks_{number}_0" for number in (1, 2, 4, 5, 7, 8)] + ["middle_block_0", "middle_block_2"]
    residuals += [f"output_blocks_{number}_0" for number in range(9)]
    convolutions = {f"{place}_{layer}" for place in residuals for layer in ("in_layers_2", "out_layers_3")}
    assert (len(attentions), len(convolutions)) == (560, 34)
    assert names_written(unet, ATTENTION) == attentions
    assert names_written(unet, lora.CONVOLUTION_LAYERS) == convolutions


def test_stable_diffusion_15_has_the_layers_other_programs_know() -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)  # the other defaults are SD 1.5's
    assert sum(parameter.numel() for parameter in unet.parameters()) == 859_520_964
    places = [f"down_blocks_{block}_attentions_{number}" for block in (0, 1, 2) for number in (0, 1)]
    places += ["mid_block_attentions_0"]
    places += [f"up_blocks_{block}_attentions_{number}" for block in (1, 2, 3) for number in (0, 1, 2)]
    attentions = {
        f"{place}_transformer_blocks_0_{attention}_{projection}"
        for place in places
        for attention in ("attn1", "attn2")
        for projection in ("to_q", "to_k", "to_v", "to_out_0")
    }
    residuals = [f"down_blocks_{block}_resnets_{number}" for block in range(4) for number in (0, 1)]
    residuals += ["mid_block_resnets_0", "mid_block_resnets_1"]
    residuals += [f"up_blocks_{block}_resnets_{number}" for block in range(4) for number in (0, 1, 2)]
    convolutions = {f"{place}_{layer}" for place in residuals for layer in ("conv1", "conv2")}
    assert (len(attentions), len(convolutions)) == (128, 44)
    assert names_written(unet, ATTENTION) == attentions
    assert names_written(unet, lora.CONVOLUTION_LAYERS) == convolutions


def names_written(unet: UNet2DConditionModel, kinds: tuple[str, ...]) -> set[str]:
    """The layers' names in kohya's layout; each has its three tensors."""
    layers = lora._layers(unet, kinds)
    keys = {key for layer in layers for key in kohya.keys(unet, layer)}
    names = {key.removeprefix(kohya.PREFIX).partition(".")[0] for key in keys}
    assert len(keys) == 3 * len(names) == 3 * len(layers)
    return names
