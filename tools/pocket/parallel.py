"""Data-parallel training on a few cores: one single-threaded process a core, gradients averaged in shared memory.

Two threads of one process share every layer and wait for each other by spinning; on a machine that does other work too
one layer then stalls for half a second (measured: 8 pictures a second against 77 with a single thread). Processes meet
once a step, and sleep while they wait.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, TypeVar

import torch
from torch import multiprocessing, nn

Result = TypeVar("Result")
WORKERS = max(1, min(2, os.cpu_count() or 1))


class Crew:
    """What the processes of one training share; every process does the same steps on its own part of a batch.

    Args:
        parameter_count: Numbers in the flat gradient.
        workers: Processes.
    """

    def __init__(self, parameter_count: int, workers: int = WORKERS) -> None:
        """Makes the shared memory; call it in the parent."""
        context = multiprocessing.get_context("spawn")
        self.workers = workers
        self._gradients = torch.zeros(workers, parameter_count).share_memory_()
        self._signal = torch.zeros(1).share_memory_()
        self._barrier = context.Barrier(workers)

    def average_gradients(self, rank: int, parameters: Iterable[nn.Parameter], signal: float = 0.0) -> float:
        """Replaces each gradient by its average over the processes; passes a number from process 0 to all.

        Args:
            rank: The process, from 0.
            parameters: Those that have gradients, in the same order everywhere.
            signal: Only that of process 0 counts: such as the spent share of the time.
        """
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            raise SystemExit("the training was stopped; start it again to go on from its checkpoint")
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        torch.cat([gradient.reshape(-1) for gradient in gradients], out=self._gradients[rank])
        if rank == 0:
            self._signal[0] = signal
        self._barrier.wait()
        mean = self._gradients.mean(0)
        heard = float(self._signal[0])
        self._barrier.wait()
        offset = 0
        for gradient in gradients:
            gradient.copy_(mean[offset : offset + gradient.numel()].view_as(gradient))
            offset += gradient.numel()
        return heard


def run_crew(train: Callable[..., None], parameter_count: int, *arguments: Any, workers: int = WORKERS) -> None:
    """Runs `train(rank, crew, *arguments)` in `workers` processes and waits for them."""
    crew = Crew(parameter_count, workers)
    if workers == 1:
        train(0, crew, *arguments)
        return
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["OMP_NUM_THREADS"] = "1"
    multiprocessing.spawn(_start, (train, crew, *arguments), nprocs=workers)


def map_over(processes: int, work: Callable[..., Result], tasks: Sequence[tuple[Any, ...]]) -> Iterator[Result]:
    """Yields `work(*task)` in the order of the tasks, done by several processes, or here when it is to be one."""
    if processes == 1:
        yield from (work(*task) for task in tasks)
        return
    with ProcessPoolExecutor(processes) as pool:
        for future in [pool.submit(work, *task) for task in tasks]:
            yield future.result()


def count_trainable(*modules: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters() if parameter.requires_grad)


def _start(rank: int, train: Callable[..., None], crew: Crew, *arguments: Any) -> None:
    torch.set_num_threads(1)
    train(rank, crew, *arguments)
