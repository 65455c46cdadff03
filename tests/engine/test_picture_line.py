"""Pictures in line are drawn one wish after the other, also after the app was ended; with an engine that does as it is told."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from apt_engine.errors import EngineError
from apt_engine.jobs.engine import EngineStatus, SampleProgress
from apt_engine.jobs.line import RunLine
from apt_engine.jobs.picture_line import PictureLine
from apt_engine.jobs.worker import Worker
from apt_engine.runs.store import RunStore
from apt_engine.settings.sampling import SampleRequest


class Engine(Worker):
    """Writes down what it is asked to draw; does at once what `then` says."""

    def __init__(self, store: RunStore) -> None:
        super().__init__(store)
        self.asked: list[str] = []
        self.then = lambda: None

    def sample(self, request: SampleRequest, store: RunStore | None = None) -> Iterator[SampleProgress]:
        self.refuse_if_busy()
        self.asked.append(request.prompt)
        if request.prompt == "broken":
            raise EngineError("There is no run r1.")
        yield SampleProgress("Drawing", 0.5, (Path("1.png"),))
        self.then()
        yield SampleProgress("Done", 1.0, tuple(Path(f"{number}.png") for number in range(request.count)))


@pytest.fixture
def store(data_dir: Path) -> RunStore:
    return RunStore(data_dir)


def wish(prompt: str, count: int = 1, seed: int = 0) -> SampleRequest:
    return SampleRequest(prompt=prompt, run="", count=count, seed=seed)


def prompts(line: PictureLine) -> list[str]:
    return [wish.requests[0][1].prompt for wish in line.waiting()]


def test_wishes_are_drawn_in_turn_and_those_beside_each_other_together(store: RunStore) -> None:
    engine = Engine(store)
    line = PictureLine(store, engine)
    line.add([("kept", wish("owl", 2, seed=7)), ("the base model", wish("owl", seed=7))])
    line.add([("", wish("broken"))])
    line.add([("", wish("cat"))])
    assert [line.go_on() for _ in range(4)] == [True, True, True, False]
    assert engine.asked == ["owl", "owl", "broken", "cat"]
    assert prompts(line) == []


def test_what_was_drawn_is_told_with_captions_and_seeds_and_what_went_wrong(store: RunStore) -> None:
    line = PictureLine(store, Engine(store))
    line.add([("kept", wish("owl", 2, seed=7)), ("the base model", wish("owl", seed=7))])
    line.go_on()
    assert [picture[:2] for picture in line.drawn.pictures] == [("kept", 7), ("kept", 8), ("the base model", 7)]
    line.add([("", wish("broken"))])
    line.go_on()
    assert line.drawn.problem == "There is no run r1."


def test_the_order_is_changed_and_survives_a_restart(store: RunStore) -> None:
    line = PictureLine(store, Engine(store))
    for prompt in ("owl", "cat", "dog"):
        line.add([("", wish(prompt))])
    owl, _, dog = line.waiting()
    mark = line.mark
    line.hasten(dog.id)
    line.hasten(owl.id)  # the first stays the first
    assert (prompts(line), line.mark == mark) == (["owl", "dog", "cat"], False)
    line.remove(owl.id)
    assert prompts(PictureLine(store, Engine(store))) == ["dog", "cat"]


def test_what_is_being_drawn_while_the_app_ends_is_drawn_when_it_is_back(store: RunStore) -> None:
    engine = Engine(store)
    line = PictureLine(store, engine)
    engine.then = line.close
    line.add([("", wish("owl"))])
    line.go_on()
    assert line.go_on() is False
    assert prompts(PictureLine(store, Engine(store))) == ["owl"]


def test_pictures_come_before_runs_and_wait_for_the_one_that_trains(store: RunStore) -> None:
    engine = Engine(store)
    pictures = PictureLine(store, engine)
    line = RunLine(store, engine, first=pictures.go_on)
    pictures.add([("", wish("owl"))])
    engine._status = EngineStatus("training", "r1")
    assert pictures.go_on() is False
    engine._status = EngineStatus()
    line.start()
    for _ in range(100):
        if not pictures.waiting():
            break
        line._closed.wait(0.05)
    line.close()
    assert engine.asked == ["owl"]


@pytest.mark.parametrize("written", ["[1, {}]", "{}", '[{"id": "a", "requests": [["", {"prompt": ""}]]}]', "["])
def test_a_file_that_another_program_wrote_is_passed_over(store: RunStore, written: str) -> None:
    store.data_dir.mkdir()
    (store.data_dir / "pictures.json").write_text(written)
    line = PictureLine(store, Engine(store))
    assert (line.waiting(), line.go_on()) == ([], False)
    line.add([("", wish("cat"))])
    assert prompts(line) == ["cat"]
