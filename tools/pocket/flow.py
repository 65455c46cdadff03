"""The flow transformer and its text encoder, trained together on cached tokens of the world.

Straight paths from picture to noise, noise levels drawn logit-normal (Esser et al. 2024), averaged weights. The rate is
constant, so that a sitting can always be followed by another; in the last one `--cool-down` brings it down to nothing.
"""

import copy
import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tools.pocket.captions import draw_captions
from tools.pocket.files import load_checkpoint, save_checkpoint
from tools.pocket.flow_model import FlowModel
from tools.pocket.flow_speed import Working
from tools.pocket.flow_tokenizer import load_flow_tokenizer, tokenize, train_flow_tokenizer
from tools.pocket.flow_vae import encode_world_tokens, read_tokens
from tools.pocket.parallel import WORKERS, Crew, count_trainable, run_crew
from tools.pocket.schedule import Clock
from tools.pocket.settings import SEED, Workplace
from tools.pocket.sprites import other_words
from tools.pocket.world import read_codes

BATCH = 32  # over all processes; at first many small steps teach more than few large ones in the same time
RATE = 2e-3
WARM_UP_STEPS = 50
EMA_DECAY = 0.997
SAVE_EVERY_SECONDS = 180


def train_flow(workplace: Workplace, deadline: float, *, cool_down: bool = False, workers: int = WORKERS) -> None:
    """Trains until the deadline (seconds since the epoch), going on from the checkpoint.

    Args:
        workplace: Where the world, the caches and the checkpoint are.
        deadline: When this sitting ends.
        cool_down: Whether the rate falls to nothing by the deadline, as it should in the last sitting.
        workers: Processes.
    """
    train_flow_tokenizer(workplace)
    encode_world_tokens(workplace, workers)
    run_crew(_train, count_trainable(_build_model(workplace)), workplace, deadline, cool_down, workers=workers)


def load_averaged(workplace: Workplace) -> tuple[FlowModel, dict[str, float]]:
    """The averaged weights of the last checkpoint, and its state."""
    model = _build_model(workplace)
    state = load_checkpoint(workplace.checkpoint("flow"), {"average": model})
    if state is None:
        raise FileNotFoundError("the flow model is not trained yet; run: python -m tools.pocket flow")
    return model.eval(), state


def build_optimizer(model: nn.Module) -> torch.optim.AdamW:
    """AdamW: a fiftieth of a second a step, where orthogonalized momentum took a sixth and learnt less in the same time."""
    return torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.99), weight_decay=0.01, fused=True)


def batch_indices(count: int, step: int) -> NDArray[np.int64]:
    """Which of `count` pictures are in the batch of a step; each epoch has a new order."""
    epoch, place = divmod(step, count // BATCH)
    return np.random.default_rng((SEED, epoch)).permutation(count)[place * BATCH : (place + 1) * BATCH]


def flow_loss(
    model: nn.Module, tokens: Tensor, noise: Tensor, sigmas: Tensor, captions: tuple[Tensor, Tensor]
) -> Tensor:
    """The mean square of predicted minus true velocity; a path goes from the picture (sigma 0) straight to noise (1)."""
    noisy = torch.lerp(tokens, noise, sigmas[:, None, None])
    format_of_weights = next((parameter.dtype for parameter in model.parameters()), noisy.dtype)
    velocity = model(noisy.to(format_of_weights), sigmas, *captions)
    return (velocity.float() - (noise - tokens)).square().mean()


def _build_model(workplace: Workplace) -> FlowModel:
    torch.manual_seed(SEED)
    return FlowModel(load_flow_tokenizer(workplace.flow_tokenizer))


def _train(rank: int, crew: Crew, workplace: Workplace, deadline: float, cool_down: bool) -> None:
    model = _build_model(workplace).train()
    average = copy.deepcopy(model)
    parameters = list(model.parameters())
    optimizer = build_optimizer(model)
    parts = {"model": model, "average": average}
    state = load_checkpoint(workplace.checkpoint("flow"), parts, optimizer) or {"step": 0, "seconds": 0.0}
    sitting, step, saved, losses = Clock(deadline), int(state["step"]), time.time(), []
    batch_source, working = _Batches(workplace, rank, crew.workers), Working(model)
    while True:
        working.take_weights()
        loss = flow_loss(working.model, *batch_source.draw(step))
        loss.backward()
        working.give_gradients()
        progress = crew.average_gradients(rank, parameters, sitting.progress)
        optimizer.param_groups[0]["lr"] = RATE * _rate(step, progress if cool_down else 0.0)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step, losses = step + 1, [*losses[-199:], loss.item()]
        if rank == 0:
            _update_average(average, model, step)
        if rank == 0 and (progress >= 1 or time.time() - saved > SAVE_EVERY_SECONDS):
            seconds = state["seconds"] + sitting.seconds
            facts = {"step": step, "samples": step * BATCH, "seconds": seconds, "loss": float(np.mean(losses))}
            save_checkpoint(workplace.checkpoint("flow"), parts, optimizer, facts)
            print(f"flow: {facts}", flush=True)
            saved = time.time()
        if progress >= 1:
            return


class _Batches:
    """Tokens, their noise and captions: one process's part of each batch, the same whenever a step is done."""

    def __init__(self, workplace: Workplace, rank: int, workers: int) -> None:
        self._tokens, self._codes = read_tokens(workplace), read_codes(workplace)
        self._words, self._tokenizer = other_words(workplace.packs), load_flow_tokenizer(workplace.flow_tokenizer)
        self._rank, self._workers = rank, workers

    def draw(self, step: int) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Tokens, noise, noise levels, token ids of the captions with their mask."""
        indices = batch_indices(len(self._tokens), step)[self._rank :: self._workers]
        generator = torch.Generator().manual_seed(SEED + step * self._workers + self._rank)
        tokens = self._tokens[torch.from_numpy(indices)].float()
        noise = torch.randn(tokens.shape, generator=generator)
        sigmas = torch.randn(len(indices), generator=generator).sigmoid()
        rng = np.random.default_rng((SEED, step, self._rank))
        return tokens, noise, sigmas, tokenize(self._tokenizer, draw_captions(self._codes[indices], rng, self._words))


def _rate(step: int, cooled: float) -> float:
    """The share of the peak rate: a short warm-up, then 1, less what is over of the cool-down."""
    return min(1.0, (step + 1) / WARM_UP_STEPS) * max(1 - cooled, 0.01)


@torch.no_grad()
def _update_average(average: nn.Module, model: nn.Module, step: int) -> None:
    decay = min(EMA_DECAY, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
