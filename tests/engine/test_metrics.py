"""A run's numbers as a table."""

import csv
import io

from apt_engine.runs.events import DriftMeasured, SplitMeasured, StepFinished
from apt_engine.runs.metrics import to_csv
from tests.histories import history_of, started


def test_each_step_is_a_line_and_what_was_not_measured_is_empty() -> None:
    def step(number: int) -> StepFinished:
        return StepFinished(
            step=number,
            loss=0.25 * number,
            reference_loss=0.5,
            gradient_norm=1,
            learning_rate=1e-4,
            seconds=1,
            gamma=(0.1, 0.2 * number),
        )

    split = SplitMeasured(step=2, cells=(), gains=(), shots=0.4, views=0.25, kept_step=2, message="")
    history = history_of(
        started(), step(1), step(2), DriftMeasured(step=0, drift=0.0), DriftMeasured(step=2, drift=0.5), split
    )
    lines = list(csv.DictReader(io.StringIO(to_csv(history))))
    assert [line["step"] for line in lines] == ["0", "1", "2"]
    assert (lines[0]["loss"], lines[0]["drift"], lines[1]["drift"]) == ("", "0.0", "")
    last = {name: value for name, value in lines[2].items() if value}
    assert last == {
        "step": "2",
        "loss": "0.5",
        "untrained_loss": "0.5",
        "indicator_0": "0.1",
        "indicator_1": "0.4",
        "drift": "0.5",
        "gain_on_photos": "0.4",
        "gain_on_new_views": "0.25",
        "kept_step": "2",
    }
