"""The recipe of the pocket model, on pieces that need neither its sources nor any training."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.judge import Verdict
from benchmarks.pocket import is_place_right
from tools.pocket.autoencoder import build_autoencoder, pictures_to_tensor
from tools.pocket.files import load_checkpoint, save_checkpoint
from tools.pocket.panoramas import PANORAMAS
from tools.pocket.parallel import Crew
from tools.pocket.places import CANVAS, PAINTERS, draw_place
from tools.pocket.schedule import Clock, cosine_rate, trapezoid_rate
from tools.pocket.settings import Workplace
from tools.pocket.sources import MissingSourceError
from tools.pocket.sprites import load_sprites
from tools.pocket.treatments import TREATMENTS
from tools.pocket.unet import build_scheduler, snr_weights
from tools.pocket.vocabulary import (
    COLORS,
    HELD_OUT_PAIRS,
    OBJECTS,
    PLACES,
    Label,
    compose_caption,
    draw_label,
)


def test_every_place_and_treatment_draws() -> None:
    rng = np.random.default_rng(0)
    for place in [*PAINTERS, *(f"{color} background" for color in COLORS)]:
        picture = draw_place(place, rng)
        assert picture.size == (CANVAS, CANVAS)
    for treat in TREATMENTS.values():
        assert treat(draw_place("beach", rng), rng).size == (CANVAS, CANVAS)


def test_every_place_is_drawn_or_photographed() -> None:
    assert set(PLACES) == {*PAINTERS, *PANORAMAS}


def test_a_place_is_the_same_for_the_same_seed() -> None:
    first, second = (draw_place("city", np.random.default_rng(3)) for _ in range(2))
    assert first.tobytes() == second.tobytes()


def test_held_out_pairs_are_known_words_and_never_drawn() -> None:
    assert all(name in OBJECTS and place in PLACES for name, place in HELD_OUT_PAIRS)
    rng = np.random.default_rng(0)
    drawn = {(label.object, label.place) for label in (draw_label(rng) for _ in range(5000))}
    assert not drawn & HELD_OUT_PAIRS


def test_captions_name_object_and_place() -> None:
    rng = np.random.default_rng(0)
    label = Label(object="owl", rendition=0, place="forest", treatment="pencil sketch")
    captions = {compose_caption(label, rng, ["umbrella"]) for _ in range(200)}
    assert all("owl" in caption and caption.startswith("a pencil") for caption in captions)
    assert any("an owl" in caption for caption in captions)
    assert sum("umbrella" in caption for caption in captions) > 0


def test_learning_rates_end_near_zero_whatever_the_clock() -> None:
    assert cosine_rate(0.02) == pytest.approx(1.0)
    assert cosine_rate(1.0) == pytest.approx(0.01)
    assert [trapezoid_rate(progress) for progress in (0.5, 0.825, 1.0)] == pytest.approx([1.0, 0.5, 0.01])
    assert Clock(deadline=time.time() - 1, spent=10).progress == 1.0
    assert Clock(deadline=time.time() + 30, spent=10).progress == pytest.approx(0.25, abs=0.01)


def test_min_snr_weights_are_one_where_noise_rules() -> None:
    alphas = torch.tensor([0.99, 0.5])  # signal to noise 99 and 1
    assert snr_weights(alphas, torch.tensor([0, 1])).tolist() == pytest.approx([5 / 99, 1.0], rel=1e-3)
    assert build_scheduler().config["prediction_type"] == "epsilon"


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    path = tmp_path / "stage.safetensors"
    save_checkpoint(path, {"module": module}, optimizer, {"step": 7})
    restored = torch.nn.Linear(3, 2)
    second = torch.optim.AdamW(restored.parameters())
    assert load_checkpoint(path, {"module": restored}, second) == {"step": 7}
    assert torch.equal(restored.weight, module.weight)
    assert torch.equal(second.state_dict()["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])
    assert [entry.name for entry in tmp_path.iterdir()] == ["stage.safetensors"]
    assert load_checkpoint(tmp_path / "none.safetensors", {}) is None


def test_a_crew_of_one_keeps_its_gradients() -> None:
    parameter = torch.nn.Parameter(torch.ones(2, 2))
    (parameter * torch.tensor([[1.0, 2.0], [3.0, 4.0]])).sum().backward()
    assert Crew(4, workers=1).average_gradients(0, [parameter], 0.5) == 0.5
    assert parameter.grad is not None
    assert parameter.grad.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_autoencoder_makes_sixteen_by_sixteen_latents_of_eight_channels() -> None:
    vae = build_autoencoder().eval()
    pictures = np.zeros((1, 64, 64, 3), np.uint8)
    with torch.no_grad():
        latents = vae.encode(pictures_to_tensor(pictures)).latent_dist.mode()
        assert latents.shape == (1, 8, 16, 16)
        assert vae.decode(latents).sample.shape == (1, 3, 64, 64)


@pytest.mark.parametrize(
    ("seen", "asked", "is_right"),
    [
        (("red background", "photo"), ("red background", "photo"), True),
        (("red background", "photo"), ("blue background", "photo"), False),
        (("red background", "pencil sketch"), ("blue background", "pencil sketch"), True),
        (("red background", "black and white"), ("blue background", "pencil sketch"), True),
        (
            ("red background", "photo"),
            ("blue background", "pencil sketch"),
            False,
        ),  # drawn in color, and in the wrong one
        (("beach", "pencil sketch"), ("blue background", "pencil sketch"), False),
        (("beach", "black and white"), ("snow", "black and white"), False),
    ],
)
def test_a_place_is_right_as_far_as_a_picture_can_show_it(
    seen: tuple[str, str], asked: tuple[str, str], is_right: bool
) -> None:
    verdict = Verdict(None, *seen)
    assert is_place_right(verdict, Label(object=None, rendition=0, place=asked[0], treatment=asked[1])) is is_right


def test_a_missing_icon_pack_is_named_with_its_remedy(tmp_path: Path) -> None:
    pytest.importorskip("resvg_py")
    with pytest.raises(MissingSourceError, match="npm install"):
        load_sprites(Workplace(root=tmp_path))
