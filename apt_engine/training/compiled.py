"""The denoiser's repeated blocks compiled by torch for the passes of a step, where a setting asks for it.

Diffusers says which blocks those are, and compiles one after the other: far sooner done than a whole model. Where APT watches
attention, a block goes on as it is and its other parts, such as the feed-forward, are compiled alone: torch does not notice hooks
that come and go, and a compiled block would run with those of another step or with none.

Nothing is renamed: a block is told to run by its compiled self, and only inside `used`. Drawing, checks and exports, which fuse
the LoRA or take it off, never see that.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from apt_engine.bases import random
from apt_engine.bases.base import BaseModel, PromptStates
from apt_engine.errors import is_out_of_memory
from apt_engine.lora import adapter
from apt_engine.settings.training import TrainingConfig

BACKEND = "inductor"
DEVICES = ("cuda",)
NEARER = 0.5  # a compiled pass must be so much nearer to its plain twin than that is to the other pass
MOST_VARIANTS = 64  # of a block: widths of the network times passes with and without LoRA and gradients; torch allows 8

ELSEWHERE = "Compiling is for NVIDIA graphics cards; training goes on uncompiled."
FAILED = "The base model could not be compiled ({reason}); training goes on uncompiled, which learns the same."
WRONG = "The compiled base model computes otherwise ({what}); training goes on uncompiled, which learns the same."


@dataclass(frozen=True, eq=False)
class Compiled:
    """Parts of a denoiser, each with its compiled self; none where nothing is compiled."""

    parts: dict[nn.Module, Any] = field(default_factory=dict)

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Inside, the parts run compiled; what torch cannot compile there, of a new shape perhaps, runs as it is."""
        with self.on_trial(suppress_errors=True) if self.parts else contextlib.nullcontext():
            yield

    @contextlib.contextmanager
    def on_trial(self, *, suppress_errors: bool = False) -> Iterator[None]:
        """The same, but for what torch cannot compile, which it raises."""
        with torch._dynamo.config.patch(recompile_limit=MOST_VARIANTS, suppress_errors=suppress_errors):
            try:
                for part, compiled in self.parts.items():
                    part._compiled_call_impl = compiled
                yield
            finally:
                for part in self.parts:
                    part._compiled_call_impl = None


def compile_blocks(base: BaseModel, config: TrainingConfig) -> tuple[Compiled, str]:
    """Compile the blocks of a base with a LoRA, and prove that the LoRA still switches and learns in there.

    Returns:
        What to use in each step, and a sentence where that is nothing.
    """
    if base.device.type not in DEVICES:
        return Compiled(), ELSEWHERE
    try:
        compiled = Compiled(_compiled_parts(base, config))
        what = _difference(base, config, compiled)
    except (RuntimeError, ValueError, ImportError, OSError) as error:  # OSError: no compiler
        if is_out_of_memory(error):
            raise
        return Compiled(), FAILED.format(reason=" ".join(str(error).split())[:160])
    return (Compiled(), WRONG.format(what=what)) if what else (compiled, "")


def _compiled_parts(base: BaseModel, config: TrainingConfig) -> dict[nn.Module, Any]:
    """The parts to compile, with what diffusers made of them."""
    denoiser: Any = base.denoiser
    denoiser.compile_repeated_blocks(backend=BACKEND)
    blocks = [module for module in denoiser.modules() if module._compiled_call_impl is not None]
    watched = _watched(base, config)
    parts: dict[nn.Module, Any] = {}
    for block in blocks:
        if watched.isdisjoint(block.modules()):
            parts[block] = block._compiled_call_impl
        block._compiled_call_impl = None
    for part in (part for block in blocks if block not in parts for part in block.children()):
        if watched.isdisjoint(part.modules()) and len(list(part.modules())) > 1:
            part.compile(backend=BACKEND)
            parts[part], part._compiled_call_impl = part._compiled_call_impl, None
    return parts


def _watched(base: BaseModel, config: TrainingConfig) -> set[nn.Module]:
    """The layers that get hooks in a step."""
    layers = base.watched_layers
    names = layers.features * bool(config.stabilization) + layers.maps * bool(config.alignment)
    return {base.denoiser.get_submodule(name) for name in names}


def _difference(base: BaseModel, config: TrainingConfig, compiled: Compiled) -> str:
    """What the compiled passes do otherwise than the plain ones, of one picture of the run's size; empty if nothing.

    The LoRA, which changes nothing yet, gets numbers for this and its own ones back.
    """
    parameters = adapter.trainable_parameters(base.denoiser)
    kept = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    try:
        for name, parameter in parameters.items():
            if name.endswith(".lora_B.weight"):
                drawn = torch.randn(parameter.shape, generator=random.generator(config.seed, 0, 0, name))
                parameter.data.copy_(0.1 * drawn)
        predict = _question(base, config)
        plain = _answers(base, predict, list(parameters.values()))
        with compiled.on_trial():
            ours = _answers(base, predict, list(parameters.values()))
    finally:
        adapter.copy_weights(kept, base.denoiser)
    reference, tuned, gradient = zip(ours, plain, strict=True)
    effect = NEARER * _distance(plain[1], plain[0])
    if not _distance(*reference) < effect:
        return "the LoRA stays on where it is to be off"
    if not _distance(*tuned) < effect:
        return "the LoRA does not act"
    if not _distance(*gradient) < NEARER * float(gradient[1].norm()):
        return "the LoRA would learn something else"
    return ""


def _question(base: BaseModel, config: TrainingConfig) -> Callable[[], Tensor]:
    """A pass like those of a step: noise of the run's size and its caption."""
    shape = base.latent_shape(config.resolution, config.resolution)
    noise = torch.randn(shape, generator=random.generator(config.seed, 0, 0, "compiled"))[None].to(base.device)
    timesteps = torch.tensor([base.levels(1)[0]], device=base.device)
    states: PromptStates = base.encode_prompts([config.fill(config.caption)])
    return lambda: base.predict(noise, timesteps, states).float()


def _answers(base: BaseModel, predict: Callable[[], Tensor], parameters: list[nn.Parameter]) -> list[Tensor]:
    """The reference pass, the tuned pass, and the gradient (all,) of its length, which fits into half precision; on the host."""
    with adapter.reference_pass(base.denoiser):
        reference = predict()
    tuned = predict()
    parts: Sequence[Tensor] = [torch.zeros_like(parameter) for parameter in parameters]
    if tuned.requires_grad:
        parts = torch.autograd.grad(tuned.norm(), parameters, materialize_grads=True)
    gradient = torch.cat([part.flatten() for part in parts])
    return [answer.detach().float().cpu() for answer in (reference, tuned, gradient)]


def _distance(one: Tensor, other: Tensor) -> float:
    """NaN where a number is."""
    return float((one - other).norm())
