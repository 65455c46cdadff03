"""Starts one worker a device, as ordinary processes of the same command, and waits for them."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

from apt_engine.jobs.sweep.plan import Plan

MASK = "CUDA_VISIBLE_DEVICES"


def devices_of(plan: Plan) -> list[str]:
    """The GPUs that the plan may use, as CUDA's mask names them; one empty name where there are none, or it wants none."""
    if all(row.config.device in ("cpu", "mps") for row in plan.rows):
        return [""]
    import torch

    count = torch.cuda.device_count()
    masked = [name.strip() for name in os.environ.get(MASK, "").split(",") if name.strip()]
    return masked[:count] or [str(index) for index in range(count)] or [""]


def run_workers(
    command: Sequence[str],
    environment: Mapping[str, str],
    devices: Sequence[str],
    count: int,
    tell: Callable[[str], None],
) -> None:
    """Start `count` workers, spread over the devices, and wait until all have ended.

    Ctrl-C reaches them by itself; a wish to terminate is passed on. Either lets them save and give their rows back.
    """
    processes: list[subprocess.Popen[bytes]] = []

    def pass_on(*_: object) -> None:
        for process in processes:
            process.terminate()

    previous = {
        signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: None),
        signal.SIGTERM: signal.signal(signal.SIGTERM, pass_on),
    }
    try:
        for number in range(count):
            own = {**_environment(devices[number % len(devices)], count), **environment}
            processes.append(subprocess.Popen(command, env=own))
        for number, process in enumerate(processes, 1):
            if code := process.wait():
                tell(f"worker {number} ended with code {code}; what it had begun is taken up by another")
    finally:
        for name, handler in previous.items():
            signal.signal(name, handler)


def own_command(arguments: Sequence[str]) -> list[str]:
    """The command line of a worker: this program with other arguments."""
    # As this process was told: a module of the folder it was started from is not to be taken for one of ours.
    safe = ["-P"] if sys.flags.safe_path else []
    return [sys.executable, *safe, "-m", "apt_engine", *arguments]


def _environment(device: str, count: int) -> dict[str, str]:
    """On CPUs each worker gets its share of the cores: torch would let every one of them use all."""
    if device:
        return {**os.environ, MASK: device}
    share = max(1, (os.cpu_count() or 1) // count)
    return {"OMP_NUM_THREADS": str(share), **os.environ} if count > 1 else dict(os.environ)
