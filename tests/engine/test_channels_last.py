"""The layout of a U-Net's convolutions on CUDA: where it is set, and that neither results nor files tell of it."""

from pathlib import Path

import pytest
import torch
from torch import nn

from apt_engine.bases.sd import StableDiffusion
from apt_engine.bases.unet import lay_out
from apt_engine.lora import adapter, files
from apt_engine.lora.about import ExportInfo
from apt_engine.lora.merged import export_merged
from tests.laws import Base, bare_base, output, perturb, run, step_of
from tests.toy import toy_pipeline

CUDA = torch.device("cuda")
INFO = ExportInfo(name="car", resolution=32, trigger_phrase="zwx car")


def turned(module: nn.Module) -> list[bool]:
    """Of each convolution that has more than one pixel and channel, whether its channels lie side by side."""
    weights = [part.weight for part in module.modules() if isinstance(part, nn.Conv2d) and part.kernel_size != (1, 1)]
    return [weight.stride(1) == 1 for weight in weights]


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_nothing_is_turned_elsewhere(device: str) -> None:
    unet = toy_pipeline().unet
    lay_out(unet, torch.device(device))
    assert not any(turned(unet))


def test_a_base_on_cuda_has_its_unet_turned_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[nn.Module] = []
    monkeypatch.setattr("apt_engine.bases.unet.lay_out", lambda unet, _device: told.append(unet) or lay_out(unet, CUDA))
    base = StableDiffusion(
        toy_pipeline(), name="toy", device=torch.device("cpu"), dtype=torch.float32, attention="fused"
    )
    assert told == [base.denoiser]
    assert all(turned(base.denoiser))
    assert not any(turned(base.pipeline.vae))


def with_lora(kind: str, *, is_turned: bool) -> Base:
    base = bare_base(kind)
    if is_turned:
        lay_out(base.denoiser, CUDA)
    adapter.attach(base.denoiser, 4, 4.0, base.lora.chosen(feed_forward=False, convolutions=True), 0)
    perturb(base)
    return base


@pytest.mark.parametrize("kind", ["epsilon", "sdxl"])
def test_results_are_the_same_within_rounding_and_files_to_the_bit(kind: str, tmp_path: Path) -> None:
    plain, ours = (with_lora(kind, is_turned=is_turned) for is_turned in (False, True))
    results = [run(step_of(base)) for base in (plain, ours)]
    assert results[1].loss.item() == pytest.approx(results[0].loss.item(), rel=1e-5)
    references = [result.reference_loss for result in results if result.reference_loss is not None]
    assert references[1].item() == pytest.approx(references[0].item(), rel=1e-5)
    gradients = [[one.grad for one in adapter.trainable_parameters(base.denoiser).values()] for base in (plain, ours)]
    assert all(torch.allclose(*pair, rtol=1e-3, atol=1e-5) for pair in zip(*gradients, strict=True))
    beside = output(ours)
    with adapter.fused(ours.denoiser):
        assert torch.allclose(output(ours), beside, atol=1e-4)
    assert torch.equal(output(ours), beside)
    written = []
    for name, base in (("plain", plain), ("ours", ours)):
        paths = [tmp_path / f"{name}-{layout}" for layout in ("own", "kohya", "diffusers", "merged")]
        files.save(base, paths[0])
        files.export_kohya(base, paths[1], INFO)
        files.export_diffusers(base, paths[2], INFO)
        export_merged(base, paths[3], INFO)
        written.append([path.read_bytes() for path in paths])
    assert written[0] == written[1]
