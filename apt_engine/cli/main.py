"""The command line: `python -m apt_engine train | resume | generate | export | verdict | runs | sweep`.

An error is one sentence and exit code 1; argparse's own complaints have exit code 2.
"""

import argparse
import os
import time
from collections.abc import Callable
from pathlib import Path

from apt_engine.cli.console import assignment, complain, say, show, take_any_letter, tell_stage
from apt_engine.cli.sweep import add_sweep, sweep
from apt_engine.cli.train import INTERRUPTED, add_resume, add_train, resume, train
from apt_engine.errors import EngineError, is_device_lost, is_out_of_memory
from apt_engine.jobs.failures import explain
from apt_engine.jobs.push import send
from apt_engine.jobs.results import draw, export
from apt_engine.jobs.session import judge
from apt_engine.jobs.worker import CHILD_ENVIRONMENT
from apt_engine.runs.events import ExportReady
from apt_engine.runs.history import NEWER, summarize
from apt_engine.runs.store import RunStore, default_data_dir
from apt_engine.runs.training_lock import training_in
from apt_engine.runs.verdict import PICTURES, chosen_steps
from apt_engine.settings.sampling import SampleRequest


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    take_any_letter()
    options = _parser().parse_args(arguments)
    for name, value in CHILD_ENVIRONMENT.items():  # before torch is imported
        os.environ.setdefault(name, value)
    try:
        return options.command(options, RunStore(options.data_dir))
    except EngineError as error:
        complain(error)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    # Of an export or pictures; a session makes its own a sentence.
    except (MemoryError, OSError, RuntimeError) as error:
        if not (is_out_of_memory(error) or is_device_lost(error)):
            raise
        complain(explain(error, ""))
        return 1


def _generate(options: argparse.Namespace, store: RunStore) -> int:
    request = SampleRequest.from_dict(
        {
            "prompt": options.prompt,
            "run": "" if options.base else options.run,
            "base": options.base or "pocket",
            "count": options.count,
            "seed": options.seed,
            "loras": options.lora,
            **dict(assignment(text) for text in options.set),
        }
    )
    started = time.monotonic()
    for path in draw(store, request, options.out, tell_stage()):
        print(path, flush=True)
    print(f"{request.count} pictures in {time.monotonic() - started:.1f} s")
    return 0


def _export(options: argparse.Namespace, store: RunStore) -> int:
    folder = options.out or store.open(options.run).path / "exports"
    written: list[ExportReady] = []
    for event in export(store, options.run, options.step, folder, merged=options.merged):
        show(event)
        written.append(event)
    if options.push:
        say(f"sent to {send(folder, written, options.push, is_public=options.public)}")
    return 0


def _verdict(options: argparse.Namespace, store: RunStore) -> int:
    run = store.open(options.run)
    config, steps = run.config, chosen_steps([item.step for item in run.checkpoints()], summarize(run).kept_step)
    say(f"{(1 + len(steps)) * PICTURES} pictures by {config.base} itself and {len(steps)} checkpoints of {run.id}")
    judge(store, run, tell_stage())
    verdict = summarize(run).verdict
    assert verdict
    for line in (*verdict.lines(), verdict.message):
        say(line)
    return 0


def _runs(_options: argparse.Namespace, store: RunStore) -> int:
    training = training_in(store)
    for run in store.list():
        try:
            summary = summarize(run)
        except EngineError as error:
            say(f"{run.id}  {error}")
            continue
        state = summary.state_while(training is not None and training.run == run.id)
        words = [f"{state:9}  step {summary.step}/{summary.last_step}", summary.base, summary.subject, summary.message]
        say("  ".join([run.id, *words, *([NEWER] if summary.is_newer else [])]))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m apt_engine", description="APT Studio without a page.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, function: Callable[[argparse.Namespace, RunStore], int], help: str
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help, description=help)
        made.set_defaults(command=function)
        made.add_argument("--data-dir", type=Path, default=default_data_dir(), help="where runs live (%(default)s)")
        return made

    add_train(command("train", train, "Train on a folder of photos."))
    add_resume(command("resume", resume, "Go on with a run from its newest checkpoint."))
    _add_generate(command("generate", _generate, "Make pictures."))
    _add_export(command("export", _export, "Write the LoRA files of a run for other programs."))
    _add_verdict(
        command("verdict", _verdict, "Judge a run's checkpoints by pictures, and the untrained model beside them.")
    )
    command("runs", _runs, "List all runs, newest first.")
    add_sweep(command("sweep", sweep, "Train many runs: subjects x settings x seeds; see docs/sweep.md."))
    return parser


def _add_generate(command: argparse.ArgumentParser) -> None:
    command.add_argument("--run", default="latest", help="id of a run, or latest")
    command.add_argument("--base", default="", help="use this bare base model instead of a run")
    command.add_argument("--prompt", required=True, help="what to show; {subject} is identifier + class word")
    command.add_argument(
        "--lora",
        action="append",
        default=[],
        metavar="FILE:STRENGTH",
        help="a LoRA file, or a run as ID@STEP, beside the run's own or on the bare base; may be given several times",
    )
    command.add_argument("--count", type=int, default=4)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--out", type=Path, default=Path("pictures"), metavar="DIR")
    command.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="steps, guidance_scale, strength ..."
    )


def _add_export(command: argparse.ArgumentParser) -> None:
    command.add_argument("--run", default="latest", help="id of a run, or latest")
    command.add_argument(
        "--step", default="kept", metavar="N", help="which checkpoint: a step, kept (the best one), or last"
    )
    command.add_argument("--out", type=Path, metavar="DIR", help="where to write; the run's own folder unless given")
    command.add_argument("--merged", action="store_true", help="also a whole checkpoint with the LoRA inside")
    command.add_argument(
        "--push", metavar="OWNER/NAME", help="send the files to this repository of the Hugging Face hub"
    )
    command.add_argument("--public", action="store_true", help="make that repository public, if it is made now")


def _add_verdict(command: argparse.ArgumentParser) -> None:
    command.add_argument("run", nargs="?", default="latest", help="id of a run, or latest")
