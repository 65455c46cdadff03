"""A LoRA file as the beginning of a training."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file

from apt_engine.errors import LoraError
from apt_engine.jobs.limits import LimitError, check_training
from apt_engine.jobs.session import train
from apt_engine.lora import adapter, files, start
from apt_engine.runs.events import Noticed
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.settings.training import TrainingConfig
from tests.engine.test_bases import stable_diffusion
from tests.engine.test_lycoris import QUERY, loha, stem_of
from tests.foreign_loras import _kohya, draw_layers
from tests.loras import ATTENTION, EFFECT, LAYERS, difference, trained, write_kohya


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lora.safetensors"


@pytest.fixture
def store(data_dir: Path) -> RunStore:
    return RunStore(data_dir)


@pytest.mark.parametrize(("rank", "alpha"), [(4, 4.0), (8, 2.0), (4, 16.0)])
def test_a_file_of_the_same_or_a_lower_rank_is_taken_over_exactly(path: Path, rank: int, alpha: float) -> None:
    base, fresh = trained(4, 8.0), stable_diffusion()
    files.save(base, path)
    begun = start.read(fresh, path)
    assert difference(fresh, stable_diffusion()) == 0  # bare again
    adapter.attach(fresh.denoiser, rank, alpha, ATTENTION, seed=5)
    assert start.take_over(fresh, begun) == []
    assert difference(fresh, base) < 1e-5
    assert difference(fresh, stable_diffusion()) > EFFECT
    own = adapter.trainable_parameters(fresh.denoiser)
    assert all(parameter.requires_grad for parameter in own.values())
    downs = [value for name, value in own.items() if ".lora_A." in name]
    assert all(bool((value[4:] != 0).all()) for value in downs)  # the new ranks can learn


def test_of_a_higher_rank_the_best_is_kept_and_told(path: Path) -> None:
    base, fresh = trained(4, 4.0), stable_diffusion()
    for name, parameter in adapter.trainable_parameters(base.denoiser).items():
        if ".lora_B." in name:
            parameter.data[:, 2:] *= 0.001  # two of four ranks do nearly all
    files.save(base, path)
    begun = start.read(fresh, path)
    adapter.attach(fresh.denoiser, 2, 6.0, ATTENTION, seed=5)
    (told,) = start.take_over(fresh, begun)
    assert "have a higher rank" in told
    assert difference(fresh, base) < EFFECT / 10


def test_another_programs_file_is_taken_over_but_for_text_encoders_and_layers_that_are_not_trained(path: Path) -> None:
    base = stable_diffusion()
    layers = draw_layers(base, ("unet", "text_encoder"), "all", is_mixed=True, dtype=torch.float32)
    save_file(_kohya(base, layers), path)
    begun = start.read(base, path)
    adapter.attach(base.denoiser, 8, 8.0, LAYERS.all, seed=5)
    told = " ".join(start.take_over(base, begun))
    assert "are of text encoders, which are not trained" in told
    assert "are not trained with these settings" in told
    wanted = {layer.name: layer.delta for layer in layers if layer.part == "unet"}
    for name, layer in base.denoiser.named_modules():
        if isinstance(layer, LoraLayer):
            delta: torch.Tensor = layer.get_delta_weight("default").detach().flatten(1)  # pyright: ignore[reportAttributeAccessIssue]
            assert torch.allclose(delta, wanted[name], atol=1e-5)


def test_a_file_with_none_of_the_layers_is_refused(path: Path) -> None:
    base = trained(4, 4.0)
    write_kohya(base, path)
    begun = start.read(stable_diffusion(), path)
    other = stable_diffusion()
    adapter.attach(other.denoiser, 4, 4.0, LAYERS.convolutions, seed=5)
    with pytest.raises(LoraError, match="none of the layers that are trained"):
        start.take_over(other, begun)


def test_a_loha_cannot_begin_a_training(path: Path) -> None:
    base = stable_diffusion()
    weight = base.denoiser.get_parameter(f"{QUERY}.weight")
    tensors, _ = loha(weight, 3, has_tucker=False)
    save_file({f"{stem_of(base, 'unet', QUERY)}.{key}": value for key, value in tensors.items()}, path)
    with pytest.raises(LoraError, match="cannot be trained further"):
        start.read(base, path)
    assert difference(base, stable_diffusion()) == 0


def test_a_run_begins_with_the_file_and_is_resumed_without_it(
    new_run: Callable[[int], Run], store: RunStore, path: Path
) -> None:
    base = trained(4, 4.0)
    write_kohya(base, path)
    run = new_run(1)
    run.replace_config(run.config.replace(start_from=str(path), rank=4, learning_rate=1e-8))
    assert not [
        event
        for event in train(store, run, lambda: False)
        if isinstance(event, Noticed) and "layers of" in event.message
    ]
    began, learnt = load_file(path), load_file(run.checkpoint().lora_path)
    down = next(name for name in began if name.endswith("attn1_to_q.lora_up.weight"))
    same = [value for value in learnt.values() if value.shape == began[down].shape]
    assert any(torch.allclose(value, began[down].float(), atol=1e-3) for value in same)
    path.unlink()
    assert list(train(store, run, lambda: False, steps=2))


def test_a_guest_cannot_name_a_file_of_the_server() -> None:
    with pytest.raises(LimitError, match="LoRA files of your own"):
        check_training(TrainingConfig(subject="car", start_from="/etc/lora.safetensors"), 3)
