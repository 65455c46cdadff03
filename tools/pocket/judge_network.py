"""The network of the judge, which `judge.py` trains and `benchmarks/judge.py` asks."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tools.pocket.settings import REPOSITORY

JUDGE_FILE = REPOSITORY / "benchmarks" / "judge.safetensors"
HEADS = ("object", "place", "treatment")
SIDE = 64  # px


class JudgeNetwork(nn.Module):
    """Convolutions from 64 px down to 4 px, the mean over what is left, one linear head a question.

    Args:
        answers: How many answers each of HEADS has.
    """

    def __init__(self, answers: Sequence[int]) -> None:
        """Builds it with random weights."""
        super().__init__()
        widths = (24, 48, 96, 192)
        self.stem = _convolution(3, widths[0], stride=2)
        self.blocks = nn.Sequential(
            *(
                block
                for before, width in zip((widths[0], *widths), widths, strict=False)
                for block in (_Block(before, width, 1 if before == width else 2), _Block(width, width, 1))
            )
        )
        self.heads = nn.ModuleList(nn.Linear(widths[-1], count) for count in answers)

    def forward(self, pictures: Tensor) -> list[Tensor]:
        """Scores of each head's answers, (batch, answers), of pictures (batch, 3, 64, 64) from -1 to 1."""
        features = self.blocks(self.stem(pictures)).mean((2, 3))
        return [head(features) for head in self.heads]


class _Block(nn.Module):
    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = _convolution(before, width, stride)
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        self.skip = nn.Identity() if stride == 1 else _skip(before, width)

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(self.second(self.first(features)) + self.skip(features))


def _skip(before: int, width: int) -> nn.Module:
    return nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(before, width, 1, bias=False), nn.BatchNorm2d(width))


def _convolution(before: int, width: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
    )
