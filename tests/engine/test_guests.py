"""Who is on the device while what is done, and in which format: real bases of toy size."""

from pathlib import Path

import pytest
import torch
from torch import nn

from apt_engine.bases import guests as guests_module
from apt_engine.bases import prompts, unet
from apt_engine.bases.base import PromptStates
from apt_engine.bases.guests import Guests
from apt_engine.bases.klein import Klein
from apt_engine.bases.registry import load_base
from apt_engine.bases.sd import StableDiffusion
from apt_engine.bases.sdxl import StableDiffusionXL
from apt_engine.bases.z_image import ZImage
from apt_engine.sampling.sampler import Picture, Sampler
from apt_engine.settings.training import TrainingConfig
from apt_engine.training.latents import encode_with_warps
from tests.engine.test_bases import stable_diffusion, stable_diffusion_xl
from tests.klein import save_toy_klein, toy_klein
from tests.z_image import save_toy_z_image, toy_z_image

Base = StableDiffusion | StableDiffusionXL | Klein | ZImage


class Traveler(nn.Linear):
    """Remembers where it was sent; this machine may have but one device."""

    def __init__(self) -> None:
        super().__init__(1, 1)
        self.way: list[str] = []

    def to(self, device: torch.device) -> "Traveler":  # pyright: ignore[reportIncompatibleMethodOverride]
        self.way.append(device.type)
        return self


@pytest.mark.parametrize(("kind", "home"), [("cuda", "cpu"), ("mps", "mps"), ("cpu", "cpu")])
def test_guests_leave_a_device_that_has_a_memory_of_its_own(kind: str, home: str) -> None:
    guests, text, vae = Guests(torch.device(kind)), Traveler(), Traveler()
    guests.invite(text, vae)
    guests.invite(text)  # is there already
    guests.dismiss(keep=(vae,))
    assert guests.present == (vae,)
    guests.dismiss()
    guests.dismiss()
    assert text.way == vae.way == [kind, home]
    assert guests.present == ()


def test_the_denoiser_goes_out_for_a_guest_that_does_not_fit_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for free, way in ((7, ["cpu", "cuda"]), (8, [])):  # two numbers in fp32
        monkeypatch.setattr(guests_module, "free_bytes", lambda _, free=free: free)
        host, text, vae = Traveler(), Traveler(), Traveler()
        guests = Guests(torch.device("cuda"), host)
        guests.invite(text)
        assert host.way == way[:1]
        guests.invite(text, vae)
        guests.dismiss(keep=(vae,))
        guests.dismiss()
        assert host.way == way
        assert text.way == vae.way == ["cuda", "cpu"]
    monkeypatch.undo()
    shared = Guests(torch.device("mps"), host := Traveler())
    shared.invite(Traveler())
    assert not host.way


def test_a_flow_transformer_is_back_before_it_predicts(monkeypatch: pytest.MonkeyPatch) -> None:
    for base in (toy_klein(), toy_z_image()):
        way: list[str] = []
        monkeypatch.setattr(base.guests, "_home", torch.device("meta"))  # not the device: then there is one to leave
        monkeypatch.setattr(guests_module, "free_bytes", lambda _: 0)
        monkeypatch.setattr(base.denoiser, "to", lambda device, way=way: way.append(device.type))
        monkeypatch.setattr(base.pipeline.text_encoder, "to", lambda _, part=base.pipeline.text_encoder: part)
        states = base.encode_prompts(["a car"])
        assert way == ["meta"]
        base.predict(torch.zeros(1, *base.latent_shape(32, 32)), torch.tensor([5]), states)
        assert way == ["meta", "cpu"]


@pytest.mark.parametrize("build", [stable_diffusion, stable_diffusion_xl, toy_klein, toy_z_image])
def test_text_encoders_and_vae_are_there_for_their_own_work_alone(build: type[Base]) -> None:
    base: Base = build()  # pyright: ignore[reportCallIssue]
    pipeline = base.pipeline
    texts = [part for name, part in pipeline.components.items() if name.startswith("text_encoder")]
    assert base.guests.present == ()
    states = base.encode_prompts(["a car"])
    assert set(base.guests.present) == set(texts)
    latents = torch.zeros(1, *base.latent_shape(32, 32))
    base.predict(latents, torch.tensor([5]), states)
    assert base.guests.present == ()
    base.encode_prompts(["a car"])
    assert base.guests.present == ()  # its states are known
    base.encode_images(torch.zeros(1, 3, 32, 32))
    assert base.guests.present == (pipeline.vae,)
    seen: list[tuple[nn.Module, ...]] = []
    picture = Picture(prompt="a cat", seed=0, steps=4, width=32, height=32)
    list(Sampler(base).generate([picture], lambda _: seen.append(base.guests.present), lambda _: None))
    assert seen == [(pipeline.vae,)] * 4  # for previews; the text encoders are gone while it draws
    base.predict(latents, torch.tensor([5]), states)
    assert base.guests.present == ()


def test_prompts_lately_heard_are_kept_and_do_not_depend_on_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompts, "PROMPTS_KEPT", 2)
    asked: list[str] = []

    def encode(prompt: str) -> PromptStates:
        asked.append(prompt)
        return PromptStates(torch.full((1, 3, 2), float(len(prompt))), torch.full((1, 2), float(len(prompt))))

    recent, device = prompts.RecentPrompts(), torch.device("cpu")
    states = recent.states(["a", "bb", "a"], encode, device)
    assert states.pooled is not None
    assert states.pooled[:, 0].tolist() == states.hidden[:, 0, 0].tolist() == [1, 2, 1]
    states.hidden.zero_()  # what is given out is nobody else's
    assert recent.states(["a"], encode, device).hidden.eq(1).all()
    assert asked == ["a", "bb"]
    recent.states(["ccc", "a", "bb"], encode, device)  # the third makes room for itself
    assert asked == ["a", "bb", "ccc", "bb"]
    base = stable_diffusion_xl()
    together = base.encode_prompts(["a car", "", "a cat on the beach"])
    assert torch.equal(together.hidden[1:2], stable_diffusion_xl().encode_prompts([""]).hidden)
    assert torch.equal(together.hidden[:1], stable_diffusion_xl().encode_prompts(["a car"]).hidden)


@pytest.mark.parametrize("kind", ["sd", "xl", "klein", "z-image"])
def test_weights_are_in_the_format_they_are_used_in(
    kind: str, toy_base: Path, toy_xl_base: Path, tmp_path: Path
) -> None:
    """No part is in fp32 for a moment but the VAE, which stays in it; on a CPU too, where bf16 was chosen."""
    makers = {"klein": save_toy_klein, "z-image": save_toy_z_image}
    folder = makers[kind](tmp_path / kind) if kind in makers else {"sd": toy_base, "xl": toy_xl_base}[kind]
    base = load_base(str(folder), device="cpu", dtype="bf16")
    assert isinstance(base, Base)
    formats = {
        name: {value.dtype for value in part.parameters()}
        for name, part in base.pipeline.components.items()
        if isinstance(part, nn.Module)
    }
    assert formats.pop("vae") == {torch.float32}
    assert all(found == {torch.bfloat16} for found in formats.values()), formats
    states = base.encode_prompts(["a car"])
    assert base.predict(torch.zeros(1, *base.latent_shape(32, 32)), torch.tensor([5]), states).isfinite().all()


def test_only_large_pictures_go_through_the_vae_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles are blended where they meet, so a picture that fits is left whole: it is then what the stock pipeline draws."""
    base = stable_diffusion()
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    pixels = base.decode(latents)
    shapes: list[int] = []
    base.pipeline.vae.decoder.register_forward_pre_hook(lambda _module, inputs: shapes.append(inputs[0].shape[-1]))
    assert unet.LARGEST_WHOLE == 1024 * 1024
    monkeypatch.setattr(unet, "LARGEST_WHOLE", 64 * 64 - 1)
    tiled = base.decode(latents)
    assert tiled.shape == pixels.shape
    assert max(shapes) < 16
    assert 0 < (tiled - pixels).abs().mean() < 0.05
    assert base.encode_images(pixels)[0].shape == latents.shape
    monkeypatch.undo()
    assert torch.equal(base.decode(latents), pixels)


def test_the_bank_of_views_stays_on_the_host_and_a_view_comes_when_it_is_drawn(photo_dir: Path) -> None:
    base = stable_diffusion()
    config = TrainingConfig(subject="car", resolution=32, warped_views=2)
    paths = sorted(photo_dir.glob("*.png"))[:2]
    encoding = encode_with_warps(base, paths, config, "", lambda: None)
    while True:
        try:
            next(encoding)
        except StopIteration as done:
            source = done.value
            break
    before = source.warped(1, torch.Generator().manual_seed(0))
    base.device = torch.device("meta")
    after = source.warped(1, torch.Generator().manual_seed(0))
    assert {before.mean.device.type, before.mask.device.type} == {"cpu"}
    assert {after.mean.device.type, after.std.device.type, after.mask.device.type} == {"meta"}
    assert after.shown is before.shown
