"""Trains the judge on the world: drawn pictures, blurred and noisy ones, and the autoencoder's reconstructions."""

import json
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from tools.pocket.autoencoder import load_autoencoder, pictures_to_tensor, reconstruct
from tools.pocket.files import load_checkpoint, save_checkpoint, write_atomically
from tools.pocket.judge_network import HEADS, JUDGE_FILE, JudgeNetwork
from tools.pocket.parallel import WORKERS, Crew, count_trainable, run_crew
from tools.pocket.schedule import Clock, cosine_rate
from tools.pocket.settings import SEED, Workplace
from tools.pocket.vocabulary import OBJECTS, PLACE_NAMES, TREATMENTS
from tools.pocket.world import World, batches, open_world

BATCH = 128  # over all processes
PEAK_RATE = 3e-3
RECONSTRUCTED = 12_000  # training pictures that are also seen as the autoencoder gives them back
SAVE_EVERY_SECONDS = 120
NAMES: dict[str, list[str | None]] = {
    "object": [*OBJECTS, None],
    "place": list(PLACE_NAMES),
    "treatment": list(TREATMENTS),
}


def build_judge() -> JudgeNetwork:
    """The network with random weights."""
    return JudgeNetwork([len(NAMES[head]) for head in HEADS])


def train_judge(workplace: Workplace, deadline: float, workers: int = WORKERS) -> None:
    """Trains until the deadline (seconds since the epoch), going on from the checkpoint; then writes the judge's file."""
    _reconstructions(workplace)
    run_crew(_train, count_trainable(build_judge()), workplace, deadline, workers=workers)


def export_judge(workplace: Workplace, path: Path = JUDGE_FILE) -> dict[str, dict[str, float]]:
    """Writes weights, names and accuracies; returns the accuracies on held-out pictures and their reconstructions."""
    network = build_judge().eval()
    if load_checkpoint(workplace.checkpoint("judge"), {"judge": network}) is None:
        raise FileNotFoundError("the judge is not trained yet; run: python -m tools.pocket judge")
    accuracy = measure_judge(network, workplace)
    facts = json.dumps({"names": NAMES, "accuracy": accuracy, "held_out": workplace.held_out})
    weights = {name: _halve(tensor) for name, tensor in network.state_dict().items()}
    write_atomically(path, lambda target: save_file(weights, target, metadata={"facts": facts}))
    return accuracy


def measure_judge(network: JudgeNetwork, workplace: Workplace) -> dict[str, dict[str, float]]:
    """The share of right answers by head, on the world's held-out pictures and on their reconstructions."""
    world = open_world(workplace)
    images, codes = world.images[world.training_count :], world.codes[world.training_count :]
    kinds = {"pictures": images, "reconstructions": reconstruct(load_autoencoder(workplace), images)}
    return {kind: _score(network, pictures, _targets(codes)) for kind, pictures in kinds.items()}


@torch.no_grad()
def _score(network: JudgeNetwork, pictures: NDArray[np.uint8], targets: Tensor) -> dict[str, float]:
    right = torch.zeros(len(HEADS))
    for start in range(0, len(pictures), 200):
        scores = network(pictures_to_tensor(pictures[start : start + 200]))
        answers = torch.stack([head.argmax(1) for head in scores], 1)
        right += (answers == targets[start : start + 200]).sum(0)
    return {head: round(float(count) / len(pictures), 4) for head, count in zip(HEADS, right, strict=True)}


def _targets(codes: NDArray[np.int16]) -> Tensor:
    """(count, 3) answer indices; an empty place is the last object."""
    things = np.where(codes[:, 0] < 0, len(OBJECTS), codes[:, 0])
    return torch.from_numpy(np.stack([things, codes[:, 2], codes[:, 3]], 1).astype(np.int64))


def _train(rank: int, crew: Crew, workplace: Workplace, deadline: float) -> None:
    torch.manual_seed(SEED)
    world, network = open_world(workplace), build_judge().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    soft, targets = _reconstructions(workplace), _targets(world.codes)
    parameters = list(network.parameters())
    optimizer = torch.optim.AdamW(parameters, PEAK_RATE, weight_decay=0.02, fused=True)
    path = workplace.checkpoint("judge")
    state = load_checkpoint(path, {"judge": network}, optimizer) or {"step": 0, "seconds": 0.0}
    clock, step, saved = Clock(deadline, state["seconds"]), int(state["step"]), time.time()
    rng = np.random.default_rng((SEED, step, rank))
    for indices in batches(world.training_count, BATCH, np.random.default_rng((SEED, step))):
        part = indices[rank :: crew.workers]
        pictures = pictures_to_tensor(_soften(world, soft, part, rng))
        with torch.autocast("cpu", torch.bfloat16):
            scores = network(_spoil(pictures, rng).contiguous(memory_format=torch.channels_last))
        losses = [F.cross_entropy(head.float(), targets[part, index]) for index, head in enumerate(scores)]
        loss = torch.stack(losses).sum()
        loss.backward()
        progress = crew.average_gradients(rank, parameters, clock.progress)
        optimizer.param_groups[0]["lr"] = PEAK_RATE * cosine_rate(progress)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if rank == 0 and (progress >= 1 or time.time() - saved > SAVE_EVERY_SECONDS):
            network.eval()
            held_out = _score(network, world.images[world.training_count :], targets[world.training_count :])
            network.train()
            state = {"step": step, "seconds": clock.seconds, "loss": loss.item()} | held_out
            save_checkpoint(path, {"judge": network}, optimizer, state)
            print(f"judge: {state}", flush=True)
            saved = time.time()
        if progress >= 1:
            return


def _soften(
    world: World, soft: NDArray[np.uint8], indices: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """The pictures, half of those that have a reconstruction replaced by it; each mirrored half of the time."""
    pictures = world.images[indices]
    replaced = (indices < len(soft)) & (rng.random(len(indices)) < 0.5)
    pictures[replaced] = soft[indices[replaced]]
    mirrored = rng.random(len(indices)) < 0.5
    pictures[mirrored] = pictures[mirrored, :, ::-1]
    return pictures


def _spoil(pictures: Tensor, rng: np.random.Generator) -> Tensor:
    """Blurs a third of the batches, moves every one by up to four pixels, adds a little noise to a third."""
    if rng.random() < 1 / 3:
        side = int(rng.integers(40, 60))
        pictures = F.interpolate(pictures, size=(side, side), mode="area")
        pictures = F.interpolate(pictures, size=(64, 64), mode="bilinear", align_corners=False)
    if rng.random() < 1 / 3:
        pictures = pictures + torch.from_numpy(rng.normal(0, 0.06, pictures.shape).astype(np.float32))
    left, top = (int(offset) for offset in rng.integers(0, 9, 2))
    return F.pad(pictures, (4, 4, 4, 4), mode="replicate")[:, :, top : top + 64, left : left + 64]


def _reconstructions(workplace: Workplace) -> NDArray[np.uint8]:
    path = workplace.root / "reconstructions.npy"
    if not path.exists():
        world = open_world(workplace)
        pictures = reconstruct(load_autoencoder(workplace), world.images[: min(RECONSTRUCTED, world.training_count)])
        np.save(path.with_name("reconstructions.part.npy"), pictures)
        path.with_name("reconstructions.part.npy").replace(path)
    return np.load(path)


def _halve(tensor: Tensor) -> Tensor:
    return tensor.half().contiguous() if tensor.is_floating_point() else tensor
