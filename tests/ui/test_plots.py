"""Plots and tables are drawn from numbers alone."""

import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from apt_engine.jobs.estimate import duration, size
from ui.plots import (
    Series,
    file_url,
    gamma_lines,
    gamma_map,
    line_plot,
    progress_line,
    smooth,
    smoothed,
    thin,
    thumbnails,
    ticks,
    weight_bars,
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


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 0.13, [0, 0.05, 0.1, 0.15]),
        (0, 0.2, [0, 0.05, 0.1, 0.15, 0.2]),
        (0, 7, [0, 2, 4, 6, 8]),
        (-0.05, 0.3, [-0.1, 0, 0.1, 0.2, 0.3]),
        (0, 0, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, math.nan, [0, 0.2, 0.4, 0.6, 0.8, 1]),
    ],
)
def test_an_axis_has_a_few_round_numbers_around_what_it_shows(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_the_steps_are_round_numbers_too_and_the_axes_have_names() -> None:
    plot = line_plot([Series("loss", [(550, 0.1)])], 550, "Loss", unit="squared error")
    marks = re.findall(r">([\d,]+)</span>", plot[plot.index('class="marks"') :])
    assert marks == ["0", "100", "200", "300", "400", "500"]
    assert 'left:18.2%">100<' in plot
    assert '<small class="unit">squared error</small>' in plot
    assert "<small>step</small>" in plot
    assert ">0.5<" not in line_plot([], 3, "Loss").split('class="marks"')[1]


def test_values_below_nothing_have_their_place() -> None:
    plot = Tags(line_plot([Series("views", [(10, -0.1), (20, 0.28)])], 20, "Split"))
    (line,) = [path for path in plot.of("path") if path.get("data-name")]
    assert line["d"] == "M50.00 100.00L100.00 5.00"
    assert (plot.of("div")[0]["data-low"], plot.of("div")[0]["data-top"]) == ("-0.1", "0.3")


def test_the_kept_step_is_marked_on_plot_and_map_alike() -> None:
    gammas = [(step, (0.5, 0.2)) for step in range(1, 601)]
    for drawn in (
        line_plot([], 600, "Loss", kept_step=150),
        gamma_map(gammas, 600, kept_step=150),
        gamma_lines(gammas, 600, kept_step=150),
    ):
        assert '<path class="kept" d="M25.00 0v100"/>' in drawn
        assert '<b class="kept" style="left:25.0%">kept, 150</b>' in drawn
    assert 'style="right:25.0%"' in line_plot([], 600, "Loss", kept_step=450)
    assert 'class="kept"' not in line_plot([], 600, "Loss")


def test_a_plot_of_ten_thousand_steps_stays_small_and_ends_at_the_last() -> None:
    plot = line_plot([Series("loss", [(step, 0.1) for step in range(1, 10_001)])], 10_000, "Loss")
    (line,) = [path for path in Tags(plot).of("path") if (path.get("class") or "").startswith("line")]
    assert line["d"]
    assert line["d"].count("L") == 249
    assert line["d"].endswith("L100.00 16.67")  # the last step at the right end, 0.1 of 0.12 high
    assert "Loss, loss now 0.1" in plot
    assert len(plot) < 20_000


def test_a_value_that_is_no_number_is_left_out_and_a_mean_smooths_a_spike() -> None:
    losses = [(step, 0.1) for step in range(1, 100)]
    assert smoothed([*losses, (100, math.nan)]) == smoothed(losses)
    assert "nan" not in line_plot([Series("loss", [*losses, (100, math.nan)])], 100, "Loss")
    assert smoothed([*losses, (100, 5.0)])[-1][1] < 0.6


def test_before_the_first_step_the_axes_stand_already() -> None:
    plot = Tags(line_plot([Series("loss", [])], 300, "Loss"))
    assert "nothing yet" in (plot.of("div")[0]["aria-label"] or "")
    assert not [path for path in plot.of("path") if (path.get("class") or "").startswith("line")]


def test_two_lines_differ_by_more_than_color_and_stand_in_the_legend_in_order() -> None:
    plot = line_plot([Series("yours", [(1, 1.0)]), Series("un<trained", [(1, 2.0)], "dashed")], 10, "Loss")
    assert 'class="line accent"' in plot
    assert 'class="line dashed"' in plot
    assert plot.index("yours</li>") < plot.index("un&lt;trained</li>")


def test_each_bin_has_a_line_and_a_bar() -> None:
    gammas = [(1, (0.0, 0.5)), (2, (0.25, 1.0))]
    lines = Tags(gamma_lines(gammas, 10)).of("path")
    assert len([path for path in lines if (path.get("class") or "").startswith("line")]) == 2
    bars = weight_bars(gammas[-1][1])
    assert "width:75%" in bars
    assert "width:0%" in bars
    assert Tags(gamma_lines([], 10)).of("path")


def test_thumbnails_say_what_they_are(tmp_path: Path) -> None:
    images = Tags(thumbnails([tmp_path / "a.png", tmp_path / "b.png"], "re-framed photo")).of("img")
    assert [image["alt"] for image in images] == ["re-framed photo 1", "re-framed photo 2"]


def test_a_path_is_quoted() -> None:
    assert file_url(Path("/data/Ünï code/a#b?.png")) == "gradio_api/file=/data/%C3%9Cn%C3%AF%20code/a%23b%3F.png"


def test_progress_says_how_far_or_that_it_does_not_know() -> None:
    half = Tags(progress_line(0.5, [("step", "5", "of 10")])).of("div")[0]
    assert "<img" not in progress_line(0.5, [("“<img src=x onerror=alert(1)>” is cut", "<img>", "<img>")])
    unknown = Tags(progress_line(None, [])).of("div")[0]
    assert half["aria-valuenow"] == "50"
    assert "aria-valuenow" not in unknown
    assert unknown["class"] == "bar unknown"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (40, "40 s"), (89, "89 s"), (170, "3 min"), (9000, "2.5 h")]
)
def test_time_is_said_as_a_person_says_it(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"), [(100, "1 MB"), (12_400_000, "12 MB"), (1.1e9, "1.1 GB"), (960e6, "1.0 GB")]
)
def test_bytes_are_said_as_a_person_says_them(count: float, words: str) -> None:
    assert size(count) == words


def test_the_indicators_map_has_a_cell_a_bin_and_stretch_with_its_value_in_words() -> None:
    drawn = gamma_map([(1, (0.0, 0.5, 0.99)), (2, (0.1, 0.6, 1.0)), (60, (0.2, 0.7, 0.99))], 60)
    assert drawn.count("<rect") == 9
    assert 'class="g0" x="0.00" y="0.00"' in drawn
    assert drawn.count('class="g9"') == 4  # three cells and the legend
    assert "noise levels 100 to 199: 0.70" in drawn
    assert "now 0.20; 0.70; 0.99" in drawn
    assert "nothing yet" in gamma_map([], 60)
