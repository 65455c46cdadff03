"""What masks leave of RS and AA on re-framed photos, layer by layer: `python -m benchmarks.masks`.

RS alone and AA alone on the pocket model with its profile, the same 100 steps of 4, half of the samples re-framed. Prints for
each watched layer in how many re-framed samples its term has a number, and what the term is, over samples of each kind.
"""

import argparse
import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor

from apt_engine.bases.profiles import build_config
from apt_engine.bases.registry import load_base
from apt_engine.lora import adapter
from apt_engine.photos.photo_set import photos_in, read_photos
from apt_engine.settings.presets import load_presets
from apt_engine.settings.training import TrainingConfig
from apt_engine.training.latents import encode_with_warps
from apt_engine.training.step import AdaptiveStep
from apt_engine.training.watch import Watched

EXAMPLES = Path(__file__).resolve().parent.parent / "assets" / "examples"
TERMS = ("stabilization", "alignment")
OFF: dict[str, Any] = {"weighting": False, **dict.fromkeys(TERMS, 0)}
Losses = dict[str, list[tuple[bool, float]]]  # of each layer: whether the sample was re-framed, and the layer's term


class CoinStep(AdaptiveStep):
    """Re-frames every second sample whatever the indicator says, and keeps what the layers said."""

    seen: Watched

    def _chance(self, timestep: float) -> float:
        del timestep
        return 0.5

    def watch_layers(self) -> None:
        """From now on."""
        watch = self._probes.watch

        @contextlib.contextmanager
        def watch_and_keep(*arguments: Any) -> Iterator[Watched]:
            with watch(*arguments) as self.seen:
                yield self.seen

        self._probes.watch = watch_and_keep  # pyright: ignore[reportAttributeAccessIssue]


def losses_by_layer(term: str, photos: Sequence[Path], config: TrainingConfig, steps: int) -> Losses:
    """The term of each sample in each layer, from step 2 on: before the first update all are 0."""
    base = load_base(config.base, device="cpu", attention=config.attention)
    source = encoded(encode_with_warps(base, photos, config, "", lambda: None))
    layers = base.lora.chosen(feed_forward=config.feed_forward, convolutions=config.convolutions)
    adapter.attach(base.denoiser, config.rank, config.lora_alpha, layers, config.seed)
    parameters = list(adapter.trainable_parameters(base.denoiser).values())
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=config.weight_decay)
    step = CoinStep(config, base, source)
    step.watch_layers()
    losses: Losses = {}
    for number in range(1, steps + 1):
        batch = step(number, Tensor.backward).batch
        torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        found = step.seen.feature_losses if term == "stabilization" else step.seen.map_losses
        for name, values in found.items() if number > 1 else ():
            losses.setdefault(name, []).extend(zip(batch.warped, values.tolist(), strict=True))
    return losses


def encoded(events: Any) -> Any:
    """What encoding gives, its progress left aside."""
    while True:
        try:
            next(events)
        except StopIteration as end:
            return end.value


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="RS and AA of re-framed photos, layer by layer.")
    parser.add_argument("--photos", type=Path, default=EXAMPLES / "teddy_bear")
    parser.add_argument("--subject", default="teddy bear")
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    for term in TERMS:
        config = build_config(load_presets(), (), {"subject": options.subject, **OFF, term: 1})
        with tempfile.TemporaryDirectory() as folder:
            read_photos(photos_in(options.photos)).save(Path(folder), config.resolution)
            losses = losses_by_layer(term, sorted(Path(folder).glob("*.png")), config, options.steps)
        print(f"| {term} | re-framed, n | with a number | mean re-framed | mean plain |\n| --- |" + " ---: |" * 4)
        for name, samples in losses.items():
            warped, plain = ([value for was, value in samples if was is kind] for kind in (True, False))
            share = mean(value > 0 for value in warped)
            print(f"| {name} | {len(warped)} | {share:.0%} | {mean(warped):.3g} | {mean(plain):.3g} |")
        sums: list[float] = [mean(values) for values in zip(*([v for _, v in s] for s in losses.values()), strict=True)]
        print(
            f"| mean over layers, all samples: {mean(sums):.4g}; samples with no number: {mean(not v for v in sums):.0%} |\n"
        )


if __name__ == "__main__":
    main()
