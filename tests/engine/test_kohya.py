"""kohya's layout: its header, its numbers, and its names for the layers of SD 1.5 and SDXL."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from apt_engine.bases.base import BaseModel
from apt_engine.bases.sdxl import StableDiffusionXL
from apt_engine.errors import LoraError
from apt_engine.lora import adapter, files, kohya
from apt_engine.lora.about import ExportInfo
from tests.engine.test_bases import stable_diffusion, stable_diffusion_xl
from tests.loras import (
    ATTENTION,
    EFFECT,
    HALF_TOLERANCE,
    LAYERS,
    SHAPES_OF_SETTINGS,
    WITH_CONVOLUTIONS,
    WITH_FEED_FORWARD,
    Write,
    header,
    trained,
    write_diffusers,
    write_kohya,
)
from tests.toy import POOLED_WIDTH, TOKEN_WIDTH, toy_xl_pipeline


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lora.safetensors"


def test_the_kohya_header_says_what_others_ask_for(path: Path) -> None:
    write_kohya(trained(16, 8.0), path)
    assert header(path) == {
        "format": "pt",
        "ss_base_model_version": "sd_v1",
        "ss_v2": "False",
        "ss_network_module": "networks.lora",
        "ss_network_dim": "16",
        "ss_network_alpha": "8",
        "ss_network_args": "{}",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": "stable-diffusion-v1/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": "zwx_car-000300",
        "modelspec.resolution": "512x512",
        "modelspec.prediction_type": "epsilon",
        "modelspec.trigger_phrase": "zwx car",
        "modelspec.usage_hint": "Write zwx car in the prompt. For ComfyUI, Forge, AUTOMATIC1111 and other programs that read "
        "kohya's layout.",
    }


def test_the_kohya_header_of_a_second_stable_diffusion() -> None:
    about = ExportInfo(name="n", resolution=768, trigger_phrase="Ünï")
    for prediction, word, architecture in (("epsilon", "epsilon", "512"), ("v_prediction", "v", "768-v")):
        base = stable_diffusion(prediction)
        base.pipeline.unet.register_to_config(cross_attention_dim=1024)
        assert base.lora.kohya
        said = kohya.header(base.lora, about, 16, 0.5, has_convolutions=True)
        assert (said["ss_base_model_version"], said["ss_v2"], said["ss_network_alpha"]) == ("sd_v2", "True", "0.5")
        assert json.loads(said["ss_network_args"]) == {"conv_dim": "16", "conv_alpha": "0.5"}
        assert said["modelspec.architecture"] == f"stable-diffusion-v2-{architecture}/lora"
        assert said["modelspec.prediction_type"] == word


def test_the_kohya_header_gives_the_rank_of_convolutions_that_are_there(path: Path) -> None:
    for endings in (WITH_FEED_FORWARD, WITH_CONVOLUTIONS):
        write_kohya(trained(endings=endings), path)
        assert ("conv_dim" in header(path)["ss_network_args"]) == (endings is WITH_CONVOLUTIONS)


def test_kohya_tensors_are_half_precision_and_alpha_is_as_trained(path: Path) -> None:
    write_kohya(trained(4, 1.5), path)
    for key, value in load_file(path).items():
        if key.endswith(".alpha"):
            assert value.shape == ()
            assert float(value) == 1.5
        else:
            assert value.dtype == torch.float16


def trained_xl(rank: int = 4, alpha: float = 8.0, endings: tuple[str, ...] = ATTENTION) -> StableDiffusionXL:
    base = stable_diffusion_xl()
    adapter.attach(base.denoiser, rank, alpha, endings, seed=1)
    generator = torch.Generator().manual_seed(2)
    for parameter in adapter.trainable_parameters(base.denoiser).values():
        parameter.data += torch.randn(parameter.shape, generator=generator) * 0.2
    return base


@pytest.mark.parametrize(("write", "keys_a_layer"), [(write_kohya, 3), (write_diffusers, 2), (files.save, 2)])
@pytest.mark.parametrize(("rank", "alpha", "endings"), SHAPES_OF_SETTINGS)
def test_xl_files_arrive_whole_also_in_a_stock_pipeline(
    path: Path, write: Write, keys_a_layer: int, rank: int, alpha: float, endings: tuple[str, ...]
) -> None:
    base, fresh, stock = trained_xl(rank, alpha, endings), stable_diffusion_xl(), toy_xl_pipeline()
    write(base, path)
    ours = adapter.trainable_parameters(base.denoiser)
    assert files.load_exported(fresh, path) == keys_a_layer * len(ours) // 2 == len(load_file(path))
    stock.load_lora_weights(path.parent, weight_name=path.name)
    files.load(again := stable_diffusion_xl(), path)
    for other in (fresh, again):
        theirs = adapter.trainable_parameters(other.denoiser)
        assert theirs.keys() == ours.keys()
        assert all(torch.allclose(theirs[name], value, atol=1e-3) for name, value in ours.items())
    latents, states = torch.randn(1, 4, 8, 8), torch.randn(1, 7, 2 * TOKEN_WIDTH)
    added = {"text_embeds": torch.randn(1, POOLED_WIDTH), "time_ids": torch.tensor([[32, 32, 0, 0, 32, 32]])}
    with torch.no_grad():
        drawn = [
            model(latents, 500, states, added_cond_kwargs=added).sample
            for model in (*(one.pipeline.unet for one in (base, fresh, again, stable_diffusion_xl())), stock.unet)
        ]
    assert max(float((drawn[place] - drawn[0]).abs().max()) for place in (1, 2, 4)) < 10 * HALF_TOLERANCE
    assert (drawn[3] - drawn[0]).abs().max() > EFFECT


def test_xl_files_say_so_and_no_other_base_takes_them(path: Path) -> None:
    write_kohya(trained_xl(), path)
    said = header(path)
    assert said["ss_base_model_version"].startswith("sdxl_")
    assert said["ss_v2"] == "False"
    assert said["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"
    with pytest.raises(LoraError, match="another base model"):
        files.load(stable_diffusion(), path)
    write_kohya(trained(), path)
    with pytest.raises(LoraError, match="another base model"):
        files.load_exported(stable_diffusion_xl(), path)


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
    assert names_written(unet, ATTENTION, stable_diffusion_xl()) == attentions
    assert names_written(unet, LAYERS.convolutions, stable_diffusion_xl()) == convolutions


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
    assert names_written(unet, ATTENTION, stable_diffusion()) == attentions
    assert names_written(unet, LAYERS.convolutions, stable_diffusion()) == convolutions


def names_written(unet: UNet2DConditionModel, endings: tuple[str, ...], family: BaseModel) -> set[str]:
    """The layers' names in kohya's layout; each has its three tensors."""
    names = family.lora.kohya
    assert names
    layers = adapter.layers_of(unet, endings)
    keys = {key for layer in layers for key in kohya.keys(names, layer)}
    names = {key.removeprefix(kohya.PREFIX).partition(".")[0] for key in keys}
    assert len(keys) == 3 * len(names) == 3 * len(layers)
    return names
