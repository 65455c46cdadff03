"""What a run measured, as a table for other programs: one line a step, one column a number, empty where nothing was measured."""

import csv
import io
from collections.abc import Iterable

from apt_engine.runs.history import History


def to_csv(history: History) -> str:
    """The whole history of a run, comma-separated, with a line of names; steps rise."""
    columns = _columns(history)
    rows: dict[int, dict[str, float]] = {}
    for name, points in columns.items():
        for step, value in points:
            rows.setdefault(step, {})[name] = value
    written = io.StringIO()
    table = csv.DictWriter(written, ["step", *columns], lineterminator="\n")
    table.writeheader()
    table.writerows({"step": step, **values} for step, values in sorted(rows.items()))
    return written.getvalue()


def _columns(history: History) -> dict[str, Iterable[tuple[int, float]]]:
    bins = len(history.gammas[0][1]) if history.gammas else 0
    gammas = {
        f"indicator_{number}": [(step, gamma[number]) for step, gamma in history.gammas] for number in range(bins)
    }
    return {
        "loss": history.losses,
        "untrained_loss": history.references,
        "stabilization": history.kept_features,
        "alignment": history.kept_attention,
        "warp_chance": history.chances,
        **gammas,
        "drift": history.drifts,
        "gain_on_photos": [(split.step, split.shots) for split in history.splits],
        "gain_on_new_views": [(split.step, split.views) for split in history.splits],
        "kept_step": [(split.step, split.kept_step) for split in history.splits],
    }
