"""Plots and tables are drawn from numbers alone."""

import math
from html.parser import HTMLParser
from pathlib import Path

import pytest

from ui.plots import (
    duration,
    file_url,
    gamma_map,
    loss_plot,
    nice_ceiling,
    pick_columns,
    progress_line,
    sample_grid,
    smooth,
    thin,
)


class Tags(HTMLParser):
    """All tags of a piece of HTML with their attributes; nothing may stay open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag != "img":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def of(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.found if tag == name]


def test_a_mean_starts_at_the_first_value_and_forgets_it() -> None:
    assert smooth([3.0], span=10) == [3.0]
    assert smooth([4.0, 2.0], span=2) == pytest.approx([4.0, (0.5 * 4 + 2) / 1.5])
    assert smooth([1.0] + [0.0] * 200, span=10)[-1] < 1e-6
    assert smooth([5.0, 7.0], span=1) == [5.0, 7.0]


def test_thinning_keeps_the_last_point_and_no_more_than_asked() -> None:
    points = [(float(step), 0.0) for step in range(10_001)]
    kept = thin(points, 250)
    assert len(kept) <= 250
    assert kept[-1] == points[-1]
    assert thin(points[:3], 250) == points[:3]
    assert thin([], 250) == []


@pytest.mark.parametrize(("value", "ceiling"), [(0.13, 0.2), (0.2, 0.2), (2.1, 2.5), (7, 10), (0, 1), (math.nan, 1)])
def test_an_axis_ends_at_a_round_number(value: float, ceiling: float) -> None:
    assert nice_ceiling(value) == pytest.approx(ceiling)


def test_the_loss_plot_shows_each_step_and_stays_small() -> None:
    plot = loss_plot([(step, 0.1) for step in range(1, 10_001)], 10_000)
    dots = next(path["d"] for path in Tags(plot).of("path") if path.get("class") == "dots")
    assert dots
    assert dots.count("h0") == 250
    assert dots.endswith("M100.00 50.00h0")  # the last step at the right end, 0.1 half way up to 0.2
    assert "on average now 0.100" in plot
    assert len(plot) < 20_000


def test_a_loss_that_is_no_number_or_far_off_does_not_spoil_the_plot() -> None:
    losses = [(step, 0.1) for step in range(1, 100)]
    plain = loss_plot(losses, 100)
    assert "nan" not in loss_plot([*losses, (100, math.nan)], 100)
    assert ">0.2<" in plain
    assert ">0.2<" in loss_plot([*losses, (100, 50.0)], 100)


def test_before_the_first_step_the_axes_stand_already() -> None:
    plot = Tags(loss_plot([], 300))
    assert "nothing yet" in (plot.of("div")[0]["aria-label"] or "")
    assert not [path for path in plot.of("path") if path.get("class") in ("dots", "mean")]


def test_the_grid_has_a_row_a_prompt_and_a_column_a_step(tmp_path: Path) -> None:
    samples = {(0, 0): "samples/000000-0.png", (0, 1): "samples/000000-1.png", (50, 0): "samples/000050-0.png"}
    grid = sample_grid(("a <b>", "a cat"), samples, tmp_path)
    tags = Tags(grid)
    assert [image["src"] for image in tags.of("img")] == [
        file_url(tmp_path / samples[0, 0]),
        file_url(tmp_path / samples[50, 0]),
        file_url(tmp_path / samples[0, 1]),
    ]
    assert "before" in grid
    assert "step 50 <small>now</small>" in grid
    assert "a &lt;b&gt;" in grid
    assert "<b>" not in grid
    assert len([tile for tile in tags.of("span") if tile.get("class") == "tile"]) == 1  # the picture still to come


def test_many_columns_are_thinned_to_the_first_the_last_and_some_between() -> None:
    assert pick_columns(list(range(0, 1001, 50))) == [0, 200, 400, 600, 800, 1000]
    assert pick_columns([0, 50]) == [0, 50]


def test_a_path_is_quoted() -> None:
    assert file_url(Path("/data/Ünï code/a#b?.png")) == "gradio_api/file=/data/%C3%9Cn%C3%AF%20code/a%23b%3F.png"


def test_progress_says_how_far_or_that_it_does_not_know() -> None:
    half = Tags(progress_line(0.5, [("step", "5", "of 10")])).of("div")[0]
    unknown = Tags(progress_line(None, [])).of("div")[0]
    assert half["aria-valuenow"] == "50"
    assert "aria-valuenow" not in unknown
    assert unknown["class"] == "bar unknown"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (40, "40 s"), (89, "89 s"), (170, "3 min"), (9000, "2.5 h")]
)
def test_time_is_said_as_a_person_says_it(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_the_indicators_map_has_a_cell_a_bin_and_stretch_with_its_value_in_words() -> None:
    drawn = gamma_map([(1, (0.0, 0.5, 0.99)), (2, (0.1, 0.6, 1.0)), (60, (0.2, 0.7, 0.99))], 60)
    assert drawn.count("<rect") == 9
    assert 'class="g0" x="0.00" y="0.00"' in drawn
    assert drawn.count('class="g9"') == 4  # three cells and the legend
    assert "noise levels 100 to 199: 0.70" in drawn
    assert "now 0.20, 0.70, 0.99" in drawn
    assert "nothing yet" in gamma_map([], 60)
