"""The untouched base model as judge of pictures: no other network, no download, any family.

    features   what the watched layers make of a noisy picture, told the bare caption, on a coarse grid
    likeness   mean cosine to the photos, of features averaged over where the caption's subject is attended to
    copies     highest cosine to a photo, of features place by place: the same thing in the same place, before the same ground
    follows    mean of 1 - L_prompt / L_caption, both losses on the same noise: how much better the model guesses what a picture
               shows once it is told "a photo of a cat in the snow" and not "a photo of a cat" alone

From all features the mean of the base's own pictures is taken off: what they have in common is not what makes a thing this one.
No LoRA takes part. Noises are the same for all pictures, so that two models are held against each other fairly.

N pictures, C latent channels, h and w latent height and width, F features, G places of the grid a side.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from apt_engine.bases import random
from apt_engine.bases.base import Attention, BaseModel
from apt_engine.lora.adapter import reference_pass
from apt_engine.training.watch import attention_map, compared_rows

TOKENS = 12  # of a usual caption; a map is looked at where one of so many is compared in training
GRID = 8  # places a side at most: SDXL's layers of 64 x 64 would take 0.3 GB a picture
LEVELS = 20  # noise levels to choose from, fine noise first
SEEN_AT = 5  # where things are told apart
ASKED_AT = (9, 13, 15, 17)  # where places and treatments are decided


@dataclass(frozen=True)
class Features:
    """Of N pictures: the subject's (N, F) and place by place (N, F G G), a tensor a layer."""

    subject: list[Tensor]
    places: list[Tensor]

    @classmethod
    def joined(cls, parts: Sequence["Features"]) -> "Features":
        """Of several batches one after the other."""
        return cls(
            [torch.cat(layer) for layer in zip(*(part.subject for part in parts), strict=True)],
            [torch.cat(layer) for layer in zip(*(part.places for part in parts), strict=True)],
        )


@dataclass
class _Seen:
    """What comes by in one pass."""

    columns: Tensor
    layers: list[Tensor] = field(default_factory=list)  # (B, F, G, G)
    maps: list[Tensor] = field(default_factory=list)  # (B, 1, G, G)

    def on_features(self, _name: str, features: Tensor) -> None:
        side = math.isqrt(features.shape[1])
        square = features.float().transpose(1, 2).unflatten(2, (side, side))
        self.layers.append(F.adaptive_avg_pool2d(square, min(side, GRID)))

    def on_attention(self, name: str, attention: Attention) -> None:
        """How much each place attends to the subject; of many those not looked at count as their neighbors."""
        positions = attention.query.shape[2]
        rows = compared_rows(name, positions, TOKENS, shift=0)
        asked = attention_map(attention.query[:, :, rows], attention.key)[..., self.columns + attention.text_start]
        side = math.isqrt(positions)
        both = asked.new_zeros(len(asked), 2, positions)  # sums, and how many
        both[:, 0, rows], both[:, 1, rows] = asked.sum(dim=-1).mean(dim=1), 1.0
        total, count = F.adaptive_avg_pool2d(both.unflatten(2, (side, side)), min(side, GRID)).chunk(2, dim=1)
        self.maps.append(F.interpolate(total / count.clamp(min=1e-6), size=(GRID, GRID)))

    def features(self) -> Features:
        where = torch.stack(self.maps).mean(dim=0) if self.maps else self.layers[0].new_ones(1, 1, GRID, GRID)
        subject: list[Tensor] = []
        for layer in self.layers:
            weight = F.adaptive_avg_pool2d(where, layer.shape[-1])
            subject.append((layer * weight).sum(dim=(2, 3)) / weight.sum(dim=(2, 3)))
        return Features(subject, [layer.flatten(1) for layer in self.layers])


class Judge:
    """Looks at pictures of one subject.

    Args:
        base: with or without a LoRA, which is off while it looks.
        caption: the bare one, class word and no identifier.
        subject: the class word.
        usual: latents (N, C, h, w) of the base's own pictures of such things.
        photos: latents of the photos.
        seed: of the noises.
        batch: pictures looked at at once.
    """

    def __init__(
        self,
        base: BaseModel,
        caption: str,
        subject: str,
        *,
        usual: Tensor,
        photos: Tensor,
        seed: int,
        batch: int = 4,
    ) -> None:
        self._base, self._caption, self._seed, self._batch = base, caption, seed, batch
        self._columns = _columns_of(base, caption, subject)
        self._levels = base.levels(LEVELS)
        of_usual = self._look(usual)
        self._centers = Features(
            *([layer.mean(dim=0) for layer in kind] for kind in (of_usual.subject, of_usual.places))
        )
        self._photos = self._look(photos)

    def likeness(self, latents: Tensor) -> Tensor:
        """To the photos (N,)."""
        return self._subjects_alike(self._look(latents)).mean(dim=1)

    def alike(self, latents: Tensor) -> Tensor:
        """To each photo, place by place (N, photos)."""
        return self._places_alike(self._look(latents))

    def likeness_of_photos(self) -> Tensor:
        """Of each photo to all others (photos,); empty of a single one."""
        return _others(self._subjects_alike(self._photos)).mean(dim=1)

    def copies_of_photos(self) -> Tensor:
        """Of each photo to the nearest other (photos,); empty of a single one."""
        return _others(self._places_alike(self._photos)).amax(dim=1)

    @torch.no_grad()
    def follows(self, latents: Tensor, prompts: Sequence[str]) -> Tensor:
        """How much better each picture is guessed with its prompt than with the bare caption alone, as a share (N,)."""
        found: list[Tensor] = []
        for start in range(0, len(latents), self._batch):
            some, told = latents[start : start + self._batch], prompts[start : start + self._batch]
            shares = [
                1 - self._losses(some, told, level) / self._losses(some, [self._caption] * len(some), level)
                for level in ASKED_AT
            ]
            found.append(torch.stack(shares).mean(dim=0))
        return torch.cat(found).cpu()

    def _losses(self, latents: Tensor, prompts: Sequence[str], level: int) -> Tensor:
        """Squared error of the denoiser at a level (N,)."""
        noisy, noise, timesteps = self._noisy(latents, level)
        target = self._base.target(latents, noise, timesteps).float()
        with reference_pass(self._base.denoiser):
            guess = self._base.predict(noisy, timesteps, self._base.encode_prompts(list(prompts)))
        return (guess.float() - target).square().mean(dim=(1, 2, 3))

    @torch.no_grad()
    def _look(self, latents: Tensor) -> Features:
        parts: list[Features] = []
        for some in latents.split(self._batch):
            seen = _Seen(self._columns)
            noisy, _, timesteps = self._noisy(some, SEEN_AT)
            states = self._base.encode_prompts([self._caption] * len(some))
            with reference_pass(self._base.denoiser), self._base.watch(seen.on_features, seen.on_attention):
                self._base.predict(noisy, timesteps, states)
            parts.append(seen.features())
        return Features.joined(parts)

    def _noisy(self, latents: Tensor, level: int) -> tuple[Tensor, Tensor, Tensor]:
        """Noisy latents, their noise and their timesteps."""
        noise = torch.randn(latents.shape[1:], generator=random.generator(self._seed, level, 0, "verdict"))
        noise = noise.to(latents).expand_as(latents)
        timesteps = torch.tensor([self._levels[level]] * len(latents)).to(self._base.device)
        return self._base.add_noise(latents, noise, timesteps), noise, timesteps

    def _subjects_alike(self, seen: Features) -> Tensor:
        return _cosines(seen.subject, self._photos.subject, self._centers.subject)

    def _places_alike(self, seen: Features) -> Tensor:
        return _cosines(seen.places, self._photos.places, self._centers.places)


def _cosines(ones: Sequence[Tensor], others: Sequence[Tensor], centers: Sequence[Tensor]) -> Tensor:
    """Cosines (N, M) of features of N and of M pictures, the mean over layers; on the CPU."""
    layers = [
        F.normalize(one - center, dim=1) @ F.normalize(other - center, dim=1).T
        for one, other, center in zip(ones, others, centers, strict=True)
    ]
    return torch.stack(layers).mean(dim=0).cpu()


def _others(alike: Tensor) -> Tensor:
    """A square (n, n) without its diagonal (n, n - 1); empty of a single one."""
    count = len(alike)
    if count == 1:
        return alike.new_empty(0, 1)
    return alike[~torch.eye(count, dtype=torch.bool)].view(count, count - 1)


def _columns_of(base: BaseModel, caption: str, subject: str) -> Tensor:
    """Which of the caption's states are the subject's own words: those that are not there without it."""
    tokens, rest = base.caption_tokens(caption), base.caption_tokens(caption.replace(subject, " "))
    own = [column for token, column in zip(tokens.ids, tokens.columns, strict=True) if token not in rest.ids]
    return torch.tensor(own or tokens.columns, device=base.device)
