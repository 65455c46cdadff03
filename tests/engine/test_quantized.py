"""Base models kept in 8 or 4 bits: what must hold exactly although the weights do not."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file
from torch import nn

from apt_engine.bases import footprint, precision
from apt_engine.bases.quantized import PackedLinear, pack, place
from apt_engine.bases.registry import load_base
from apt_engine.bases.sd import StableDiffusion
from apt_engine.errors import ConfigError
from apt_engine.jobs.session import create, train
from apt_engine.lora import adapter, files
from apt_engine.runs.events import ExportReady, StepFinished
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.sampling.generation import Generator
from apt_engine.settings.sampling import SampleRequest
from apt_engine.settings.training import TrainingConfig
from apt_engine.training import exports
from benchmarks.memory import Setting, measure
from tests.engine.test_footprint import SMALL
from tests.klein import save_toy_klein
from tests.laws import Base, bare_base, output, run, step_of
from tests.toy import toy_pipeline
from tests.z_image import save_toy_z_image

WORDS = "base_precision 8bit needs bitsandbytes, which is not installed; run pip install -r requirements-quantized.txt"
CPU = torch.device("cpu")
is_missing = not precision.is_available() and not os.environ.get("CI")
needs_backend = pytest.mark.skipif(is_missing, reason="bitsandbytes is not installed")
BITS = pytest.mark.parametrize("bits", ["8bit", "4bit"])


@pytest.fixture
def store(data_dir: Path) -> RunStore:
    return RunStore(data_dir)


def packed_base(kind: str, bits: str) -> Base:
    options: Any = {"name": "toy", "device": CPU, "dtype": torch.float32, "attention": "fused"}
    if kind == "epsilon":
        return StableDiffusion(toy_pipeline(), precision=bits, **options)
    base = bare_base(kind)
    pack(base.denoiser, CPU, bits)
    return base


@needs_backend
@BITS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_layer_computes_and_goes_back_as_one_of_its_weight_does(bits: str, dtype: torch.dtype) -> None:
    plain = nn.Linear(96, 64, dtype=dtype).requires_grad_(False)
    packed = PackedLinear(plain, CPU, bits)
    error = (packed.weight - plain.weight).float().norm() / plain.weight.float().norm()
    assert 1e-4 < error < {"8bit": 0.02, "4bit": 0.15}[bits]
    plain.weight.data.copy_(packed.weight)
    rows = torch.randn(2, 5, 96, dtype=dtype, generator=torch.Generator().manual_seed(0))
    ours, theirs = (rows.clone().requires_grad_() for _ in range(2))
    results = packed(ours), plain(theirs)
    assert torch.equal(*results)
    for result in results:
        result.square().sum().backward()
    assert ours.grad is not None
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-6) if theirs.grad is not None else False


@needs_backend
def test_autocast_and_a_change_of_format_leave_a_packed_weight_as_it_is() -> None:
    layer = PackedLinear(nn.Linear(64, 64).requires_grad_(False), CPU, "8bit")
    before = layer.weight
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.ones(1, 64)).dtype == torch.bfloat16
    layer.to(torch.bfloat16)
    assert torch.equal(layer.weight, before)


@needs_backend
@BITS
def test_nothing_of_a_packed_weight_is_kept_whole_for_backward(bits: str) -> None:
    layer = PackedLinear(nn.Linear(64, 64).requires_grad_(False), CPU, bits)
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        layer(torch.ones(1, 64, requires_grad=True))
    assert kept == []


@needs_backend
@BITS
@pytest.mark.parametrize("kind", ["epsilon", "klein", "z-image"])
def test_the_reference_is_the_packed_base_and_at_the_start_nothing_has_changed(kind: str, bits: str) -> None:
    bare, base = packed_base(kind, bits), packed_base(kind, bits)
    adapter.attach(base.denoiser, 4, 4.0, base.lora.attention, 0)
    assert any(isinstance(layer.get_base_layer(), PackedLinear) for layer in adapter.lora_layers(base.denoiser))
    result = run(step_of(base, augmentation=0), range(1, 12))
    assert result.reference_loss is not None
    assert result.loss.item() == result.reference_loss.item()
    assert result.stabilization is not None
    assert result.alignment is not None
    assert (result.stabilization.item(), result.alignment.item()) == (0, 0)
    with torch.no_grad():
        for parameter in adapter.trainable_parameters(base.denoiser).values():
            parameter.add_(0.3)
    tuned = output(base)
    with adapter.reference_pass(base.denoiser):
        assert torch.equal(output(base), output(bare))
    assert (tuned - output(bare)).abs().max() > 1e-3
    if kind != "epsilon":
        return
    with adapter.fused(base.denoiser):
        assert torch.equal(output(base), tuned)


@needs_backend
@BITS
def test_the_bytes_of_packed_weights_are_told_and_a_step_takes_what_was_told(bits: str) -> None:
    setting = Setting(unet=SMALL, part="plain", precision=bits)
    phases = measure(setting)
    told = footprint.Training(height=32, width=32, precision=bits)
    unet = dict(UNet2DConditionModel(**SMALL).config)
    tables = 1024 * 120 * (bits == "8bit")  # one of 1 KB for each of ten layers in twelve blocks
    assert footprint.weight_bytes(unet, told) == pytest.approx(phases.frozen, abs=tables)
    assert footprint.step_bytes(unet, told) == pytest.approx(max(phases.forward, phases.backward), rel=0.15)
    whole = footprint.weight_bytes(unet, footprint.Training(height=32, width=32))
    assert phases.frozen < 0.75 * whole


def losses(store: RunStore, run: Run, steps: int | None = None) -> dict[int, float]:
    return {
        event.step: event.loss
        for event in train(store, run, lambda: False, steps=steps)
        if isinstance(event, StepFinished)
    }


@needs_backend
@BITS
def test_a_run_on_a_packed_base_resumes_to_the_bit_and_its_files_fit_the_whole_one(
    store: RunStore, new_run: Callable[..., Run], toy_base: Path, tmp_path: Path, bits: str
) -> None:
    whole, cut, full = new_run(), new_run(), new_run()
    for one in (whole, cut):
        one.replace_config(one.config.replace(base_precision=bits))
    straight = losses(store, whole)
    assert losses(store, full) != straight
    assert {**losses(store, cut, 2), **losses(store, cut, 4)} == straight
    assert cut.checkpoint().lora_path.read_bytes() == whole.checkpoint().lora_path.read_bytes()
    written = list(exports.export_checkpoint(cut, cut.checkpoint(), tmp_path, merged=True))
    assert {event.layout for event in written if isinstance(event, ExportReady)} == {"kohya", "diffusers", "merged"}
    _holds_the_same(cut, load_base(str(toy_base), device="cpu"), {event.layout: Path(event.path) for event in written})


@needs_backend
def test_pictures_of_such_a_run_are_drawn_on_the_base_it_was_trained_on(
    store: RunStore, new_run: Callable[..., Run], tmp_path: Path
) -> None:
    run = new_run(2)
    run.replace_config(run.config.replace(base_precision="8bit"))
    losses(store, run)
    generator = Generator()
    request = SampleRequest(prompt="a {subject}", run=run.id, count=1, steps=2)
    drawn = list(generator.generate(store, request, tmp_path / "pictures", lambda *_: None))
    assert len(drawn) == 1
    assert generator._sampler is not None
    layers = generator._sampler.base.denoiser.modules()
    assert any(isinstance(layer, PackedLinear) for layer in layers)


def _holds_the_same(run: Run, base: Any, paths: dict[str, Path]) -> None:
    """Both files add the same to the whole base, and the merged one is that base and what they add."""
    changes = []
    for layout in ("kohya", "diffusers"):
        files.load_exported(base, paths[layout])
        parts = map(adapter.factors, adapter.lora_layers(base.denoiser))
        changes.append([scale * up.flatten(1) @ down.flatten(1) for down, up, scale in parts])
    assert all(map(functools.partial(torch.allclose, rtol=1e-3, atol=1e-6), *changes))
    names = base.lora.kohya
    layers = [name for name, layer in base.denoiser.named_modules() if layer in adapter.lora_layers(base.denoiser)]
    adapter.detach(base.denoiser)
    merged, bare = load_file(paths["merged"]), names.checkpoint()
    for layer, change in zip(layers, changes[0], strict=True):
        key = names.weight(layer)
        assert torch.allclose(merged[key].float(), bare[key] + change.view(bare[key].shape), atol=2e-3)
    rest = bare.keys() - {names.weight(layer) for layer in layers}
    assert all(torch.equal(merged[key], bare[key].half()) for key in rest)


def test_without_the_backend_one_sentence_says_what_to_install(
    store: RunStore, toy_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "BACKEND", "no_such_library")
    config = TrainingConfig(subject="car", base=str(toy_base), base_precision="8bit")
    for work in (
        lambda: create(store, config, lambda folder: None),
        lambda: load_base(str(toy_base), device="cpu", precision="8bit"),
    ):
        with pytest.raises(ConfigError) as caught:
            work()
        assert str(caught.value).startswith(WORDS.replace("bitsandbytes", "no_such_library"))
    assert list(store.list()) == []


@needs_backend
@pytest.mark.parametrize("save", [save_toy_klein, save_toy_z_image])
def test_a_run_on_a_packed_flow_transformer_resumes_to_the_bit_and_its_files_fit_the_whole_one(
    store: RunStore, new_run: Callable[..., Run], tmp_path: Path, save: Callable[[Path], Path]
) -> None:
    folder = save(tmp_path / "base")
    runs = whole, cut, full = new_run(), new_run(), new_run()
    for one, bits in zip(runs, ("4bit", "4bit", "full"), strict=True):
        one.replace_config(one.config.replace(base=str(folder), base_precision=bits))
    straight = losses(store, whole)
    assert losses(store, full) != straight
    assert {**losses(store, cut, 2), **losses(store, cut, 4)} == straight
    assert cut.checkpoint().lora_path.read_bytes() == whole.checkpoint().lora_path.read_bytes()
    (written,) = exports.export_checkpoint(cut, cut.checkpoint(), tmp_path)
    base = load_base(str(folder), device="cpu")
    files.load_exported(base, Path(written.path))
    assert not any(isinstance(module, PackedLinear) for module in base.denoiser.modules())


@needs_backend
@pytest.mark.parametrize("kind", ["klein", "z-image"])
def test_all_layers_of_a_flow_transformers_blocks_are_packed_and_no_other(kind: str) -> None:
    base = packed_base(kind, "8bit")
    packed = {name for name, module in base.denoiser.named_modules() if isinstance(module, PackedLinear)}
    linear = {name for name, module in base.denoiser.named_modules() if isinstance(module, nn.Linear)}
    assert {name.partition(".")[0] for name in packed} == (
        {"transformer_blocks", "single_transformer_blocks"}
        if kind == "klein"
        else {"layers", "noise_refiner", "context_refiner"}
    )
    assert not any("block" in name or "attention" in name or "feed_forward" in name for name in linear - packed)
    assert any("modulation" in name.lower() for name in linear - packed)


@needs_backend
def test_layers_that_are_trained_and_those_outside_attention_stay_whole() -> None:
    net: Any = nn.ModuleDict(
        {"x": nn.ModuleDict({"attentions": nn.ModuleDict({"a": nn.Linear(8, 8), "b": nn.Linear(8, 8)})})}
    )
    net["out"] = nn.Linear(8, 8).requires_grad_(False)
    net["x"]["attentions"]["a"].requires_grad_(False)
    place(net, CPU, "full")
    assert not any(isinstance(module, PackedLinear) for module in net.modules())
    pack(net, CPU, "8bit")
    assert [name for name, module in net.named_modules() if isinstance(module, PackedLinear)] == ["x.attentions.a"]
