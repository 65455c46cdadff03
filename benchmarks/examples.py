"""Does a run with the page's own settings show each shipped example in places its photos do not?

Trains on the examples that suit the pocket model, prints how long each took, and draws them in the snow, in space and in the
city with two seeds each, to be looked at.
"""

import argparse
from pathlib import Path

from apt_engine.runs.events import RunFinished
from apt_engine.runs.store import RunStore
from benchmarks.likeness import list_subjects, open_photos
from benchmarks.runs import draw, finished_run
from tools.pocket.grid import write_grid

ROOT = Path(__file__).resolve().parent.parent
PROMPTS = (
    "a photo of a {subject} in the snow",
    "a photo of a {subject} in space",
    "a photo of a {subject} in the city",
)
SEEDS = (1, 2)
PHOTOS_SHOWN = 2


def main() -> None:
    """Trains what is missing, prints a table and writes the picture."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.examples", description=__doc__)
    parser.add_argument("--work", type=Path, default=ROOT / ".bench" / "examples", help="where runs lie (%(default)s)")
    parser.add_argument("--out", type=Path, default=ROOT / "assets" / "pocket" / "examples.jpg")
    options = parser.parse_args()
    pictures, words = [], []
    print("| example | steps | seconds |\n| --- | ---: | ---: |")
    for subject in list_subjects("example"):
        run = finished_run(RunStore(options.work), subject.key, subject.training, {"subject": subject.name})
        (end,) = (event for event in run.events()[0] if isinstance(event, RunFinished))
        print(f"| {subject.key} | {end.step} | {end.seconds:.0f} |", flush=True)
        wanted = [(prompt, seed) for prompt in PROMPTS for seed in SEEDS]
        guidance_scale = run.config.sample_guidance_scale
        pictures += open_photos(subject.training)[:PHOTOS_SHOWN]
        pictures += draw(run.config, run.checkpoint().lora_path, wanted, guidance_scale)
        words += ["a photo"] * PHOTOS_SHOWN + [run.config.fill(prompt) for prompt, _ in wanted]
    write_grid(options.out, pictures, words, columns=PHOTOS_SHOWN + len(PROMPTS) * len(SEEDS))


if __name__ == "__main__":
    main()
