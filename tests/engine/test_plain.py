"""Plain DreamBooth beside a run: the same in everything but what holds the model back."""

from collections.abc import Callable
from pathlib import Path

import pytest

from apt_engine.errors import RunError
from apt_engine.runs import library
from apt_engine.runs.plain import find_plain, make_plain
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore

HELD_BACK = {"augmentation", "weighting", "stabilization", "alignment"}


@pytest.fixture
def store(data_dir: Path) -> RunStore:
    return RunStore(data_dir)


def test_it_differs_in_what_holds_the_model_back_alone_and_is_found_again(
    store: RunStore, new_run: Callable[..., Run]
) -> None:
    run = new_run(steps=0)
    (run.path / "photos" / "captions.json").write_text('{"01.png": "a {subject} on sand"}')
    assert find_plain(store, run) is None
    plain = make_plain(store, run)
    ours, theirs = run.config.to_dict(), plain.config.to_dict()
    assert {name for name, value in ours.items() if theirs[name] != value} == HELD_BACK | {"stop", "steps"}
    assert not plain.config.needs_reference
    assert plain.config.steps == run.config.steps_for(len(run.photo_paths))
    assert [path.read_bytes() for path in plain.photo_paths] == [path.read_bytes() for path in run.photo_paths]
    assert plain.captions == run.captions
    assert plain.captions[0] == "a {subject} on sand"
    assert library.title_of(plain) == "car, plain"
    found = find_plain(store, run)
    assert found
    assert found.id == plain.id
    assert find_plain(store, plain) is None
    with pytest.raises(RunError, match="is plain DreamBooth itself"):
        make_plain(store, plain)


def test_a_plain_run_of_other_photos_or_another_seed_is_not_beside_it(
    store: RunStore, new_run: Callable[..., Run]
) -> None:
    run = new_run()
    plain = make_plain(store, run)
    plain.photo_paths[1].write_bytes(plain.photo_paths[0].read_bytes())
    assert find_plain(store, run) is None
    again = make_plain(store, run)
    found = find_plain(store, run)
    assert found
    assert found.id == again.id
    run.replace_config(run.config.replace(seed=1))
    assert find_plain(store, run) is None
    (again.path / "config.json").write_text("{")
    assert find_plain(store, run) is None
