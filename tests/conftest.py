"""Fixtures for all tests. torch and Gradio are imported only by the tests that need them."""

import gc
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from apt_engine.photos.photo_set import photos_in, read_photos
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.settings.training import TrainingConfig
from tests.photos import draw_photos

if TYPE_CHECKING:
    from ui.context import AppContext
    from ui.train_view import TrainView

os.environ |= {
    # One thread, asleep while it waits: on a shared machine spinning threads make torch several times slower.
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "HF_HUB_OFFLINE": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: of the last ones, a long one would keep one process busy while the others have nothing to do."""
    items.sort(key=lambda item: not item.get_closest_marker("browser"))


def pytest_collection_finish() -> None:
    """What the imports made stays: the engine collects garbage three times a run, and would look at it for two seconds."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def toy_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the toy model in diffusers layout; copy it before changing anything."""
    from tests.toy import save_toy_base

    return save_toy_base(tmp_path_factory.mktemp("base") / "toy")


@pytest.fixture(scope="session")
def toy_xl_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for the XL toy."""
    from tests.toy import save_toy_xl_base

    return save_toy_xl_base(tmp_path_factory.mktemp("base") / "toy-xl")


@pytest.fixture
def toy_families(tmp_path: Path, toy_base: Path, toy_xl_base: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped configs and the tokenizer of checkpoints in one file, replaced by those of the toys."""
    from apt_engine.bases import checkpoints, single_file
    from tests.toy import toy_tokenizer

    folder = tmp_path / "families"
    shutil.copytree(toy_base, folder / "sd15")
    shutil.copytree(toy_xl_base, folder / "sdxl")
    toy_tokenizer().save_pretrained(folder / "clip-tokenizer")
    monkeypatch.setattr(checkpoints, "ASSETS", folder)
    monkeypatch.setattr(single_file, "TOKENIZER_DIR", folder / "clip-tokenizer")
    return folder


@pytest.fixture(scope="session")
def photo_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of four photos, PNG and JPEG, of a red disc in different places; copy it before changing anything."""
    return draw_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory that does not exist yet."""
    return tmp_path / "data"


@pytest.fixture
def new_run(store: RunStore, toy_base: Path, photo_dir: Path) -> Callable[..., Run]:
    """Makes runs of the toy that draw nothing while they train, in the module's own `store`."""
    photos = read_photos(photos_in(photo_dir))

    def make(steps: int = 4) -> Run:
        config = TrainingConfig(
            subject="car",
            base=str(toy_base),
            resolution=32,
            steps=steps,
            save_every_steps=2,
            sample_every_steps=0,
            drift_every_steps=0,
            sample_steps=2,
            warped_views=2,
            sample_prompts=("a {subject}",),
        )
        return store.create(config, lambda folder: photos.save(folder, 32))

    return make


@pytest.fixture
def context(data_dir: Path) -> Iterator["AppContext"]:
    """What the page stands on, with an engine that has not been woken."""
    from ui.context import open_context
    from ui.serving.tenants import SingleTenant

    tenants = SingleTenant(data_dir)
    yield open_context(tenants)
    tenants.close()


@pytest.fixture
def view(context: "AppContext") -> "TrainView":
    """The Train tab's components."""
    import gradio as gr

    from ui import train_view

    with gr.Blocks(analytics_enabled=False):
        return train_view.build(context)


@pytest.fixture
def photos(context: "AppContext", photo_dir: Path) -> list[Path]:
    """Photos that were brought to the page."""
    shutil.copytree(photo_dir, context.uploads_dir / "brought")
    return sorted((context.uploads_dir / "brought").iterdir())
