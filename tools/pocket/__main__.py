"""Command line: `python -m tools.pocket STAGE`; see README.md beside this file."""

import argparse
import os
import sys

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from tools.pocket.attribution import write_attribution
from tools.pocket.autoencoder import measure_psnr, train_autoencoder
from tools.pocket.export import assemble_pipeline, export_held_out, export_pipeline
from tools.pocket.flow import train_flow
from tools.pocket.flow_export import draw_flow_grid, export_flow_pipeline
from tools.pocket.grid import draw_prompts, held_out_prompts, sample, write_grid
from tools.pocket.judge import export_judge, train_judge
from tools.pocket.schedule import read_deadline
from tools.pocket.settings import Workplace
from tools.pocket.solids import render_solids
from tools.pocket.sources import MissingSourceError
from tools.pocket.subjects import photograph_subjects
from tools.pocket.tokenizer import train_tokenizer
from tools.pocket.unet import train_unet
from tools.pocket.world import draw_world, open_world

MINUTES = {"autoencoder": 25.0, "unet": 180.0, "judge": 25.0, "flow": 120.0}
STAGES = ("solids", "world", "autoencoder", "tokenizer", "unet", "judge", "subjects", "export", "grid")
FLOW_STAGES = ("flow", "flow-export", "flow-grid")  # a second model: no part of "all"


def main(arguments: list[str] | None = None) -> int:
    """Runs one stage, or all of them in order."""
    parser = argparse.ArgumentParser(prog="python -m tools.pocket", description=__doc__)
    parser.add_argument("stage", choices=(*STAGES, *FLOW_STAGES, "all"))
    parser.add_argument("--count", type=int, default=66_000, help="pictures of the world to draw")
    parser.add_argument("--minutes", type=float, help="training time of this start; each stage has a default")
    parser.add_argument("--until", help="HH:MM, end the training stage then instead")
    parser.add_argument("--cool-down", action="store_true", help="flow: the last sitting; the rate falls to nothing")
    options = parser.parse_args(arguments)
    try:
        for stage in STAGES if options.stage == "all" else (options.stage,):
            run_stage(stage, Workplace(), options)
    except (MissingSourceError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def run_stage(stage: str, workplace: Workplace, options: argparse.Namespace) -> None:
    """Runs one stage; one that is interrupted goes on where it was."""
    deadline = read_deadline(options.until, options.minutes or MINUTES.get(stage, 0))
    match stage:
        case "solids":
            render_solids(workplace)
        case "world":
            draw_world(workplace, options.count)
        case "autoencoder":
            train_autoencoder(workplace, deadline)
        case "tokenizer":
            train_tokenizer(workplace)
        case "unet":
            train_unet(workplace, deadline)
        case "judge":
            train_judge(workplace, deadline)
            print(f"judge: {export_judge(workplace)}")
        case "subjects":
            photograph_subjects(workplace)
        case "export":
            write_attribution(workplace)
            export_held_out(workplace)
            print(f"exported to {export_pipeline(workplace)}")
        case _ if stage in FLOW_STAGES:
            _run_flow_stage(stage, workplace, deadline, cool_down=options.cool_down)
        case _:
            _draw_grids(workplace)


def _run_flow_stage(stage: str, workplace: Workplace, deadline: float, *, cool_down: bool) -> None:
    match stage:
        case "flow":
            train_flow(workplace, deadline, cool_down=cool_down)
        case "flow-export":
            print(f"exported to {export_flow_pipeline(workplace)}")
        case _:
            print(f"drew {draw_flow_grid(workplace)}")


def _draw_grids(workplace: Workplace) -> None:
    pipeline = assemble_pipeline(workplace)
    world = open_world(workplace)
    psnr = measure_psnr(pipeline.vae, world.images[world.training_count :])
    print(f"autoencoder on held-out pictures: {psnr:.2f} dB")
    for path, prompts in (
        (workplace.assets / "grid.png", draw_prompts(36)),
        (workplace.root / "held_out.png", held_out_prompts()),
    ):
        write_grid(path, sample(pipeline, prompts), prompts)
        print(f"drew {path}")


if __name__ == "__main__":
    sys.exit(main())
