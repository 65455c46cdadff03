"""Many runs: rows are handed out once each, and a worker that is killed, stopped or taken for dead changes nothing in them."""

import csv
import math
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apt_engine.cli.main import main
from apt_engine.jobs.sweep import study as study_module
from apt_engine.jobs.sweep.plan import Plan, Row, read_plan
from apt_engine.jobs.sweep.study import enqueue, enqueue_missing, open_study, release_the_dead, standings
from apt_engine.jobs.sweep.worker import SweepWorker, metrics
from apt_engine.photos.photo_set import photos_in, read_photos
from apt_engine.runs.events import DriftMeasured, RunStarted, SplitMeasured, StepFinished
from apt_engine.runs.files import sha256
from apt_engine.runs.history import RunSummary
from apt_engine.runs.library import title_of
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.settings.presets import load_presets
from apt_engine.settings.training import TrainingConfig

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 300
COMMON = """
stop = "never"
save_every_steps = 2
sample_every_steps = 0
sample_steps = 2
sample_prompts = "a {subject}"
drift_prompts = "a cat"
resolution = 32
warped_views = 2
"""
MEASURED = "steps = 6\ncheck_every_steps = 2\ndrift_every_steps = 2\nnew_views = 'mirrored'\n"
SHORT = "steps = 2\ncheck_every_steps = 0\ndrift_every_steps = 0\n"
WritePlan = Callable[..., Path]


@pytest.fixture
def write_plan(tmp_path: Path, toy_base: Path, photo_dir: Path) -> WritePlan:
    """Writes a plan on the toy with one seed; of its subjects the folder `disc` is there."""
    shutil.copytree(photo_dir, tmp_path / "disc")

    def write(settings: str = SHORT, axes: str = "rank = [2]", folders: str = "disc") -> Path:
        subjects = "".join(f'[[subjects]]\nphotos = "{name}"\nsubject = "car"\n' for name in folders.split())
        base = f'base = "{toy_base.as_posix()}"'
        text = f"seeds = [1]\n[set]\n{base}\n{COMMON}{settings}\n[settings]\n{axes}\n{subjects}"
        (tmp_path / "ranks.toml").write_text(text, encoding="utf-8")
        return tmp_path / "ranks.toml"

    return write


def opened(path: Path, data: Path) -> tuple[Any, Plan]:
    """The study of a plan in a data directory, with all rows waiting that have to be trained."""
    plan = read_plan(path, load_presets())
    folder = data / "sweeps" / plan.name
    folder.mkdir(parents=True, exist_ok=True)
    study = open_study(plan, f"sqlite:///{folder.as_posix()}/sweep.db", 1)
    enqueue_missing(study, plan)
    return study, plan


def worker_on(study: Any, plan: Plan, data: Path, **changes: Any) -> SweepWorker:
    def make_run(place: RunStore, row: Row) -> Run:
        return place.create(row.config, lambda folder: read_photos(photos_in(row.photos)).save(folder, 32))

    arguments = {"make_run": make_run, "should_stop": lambda: False, "tell": lambda line: None, **changes}
    return SweepWorker(plan, study, RunStore(data), **arguments)


def artefacts(data: Path) -> dict[str, dict[str, str]]:
    """By what a run is called: the hash of each of its LoRA files."""
    return {
        title_of(run): {str(path.relative_to(run.path)): sha256(path) for path in run.path.rglob("lora.safetensors")}
        for run in RunStore(data).list()
    }


def wait_for(folder: Path, pattern: str) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not any(folder.glob(pattern)):
        assert time.monotonic() < end, f"{pattern} never came"
        time.sleep(0.01)


def test_a_worker_that_is_killed_changes_nothing(tmp_path: Path, write_plan: WritePlan) -> None:
    plan, calm, rough = write_plan(MEASURED, "rank = [2, 4]"), tmp_path / "calm", tmp_path / "rough"
    worker_on(*opened(plan, calm), calm).work()
    opened(plan, rough)
    command = ["sweep", str(plan), "--data-dir", str(rough), "--worker", "--heartbeat", "1"]
    victim = subprocess.Popen([sys.executable, "-m", "apt_engine", *command], cwd=ROOT)

    def kill_when_both_train() -> None:
        wait_for(rough, "sweeps/ranks/rows/0001/runs/2*")
        victim.kill()

    killer = threading.Thread(target=kill_when_both_train)
    try:
        wait_for(rough, "sweeps/ranks/rows/0000/runs/2*/checkpoints/0*")
        killer.start()
        assert main(command) == 0
    finally:
        victim.kill()
        victim.wait()
    killer.join()
    assert victim.returncode == -9 and artefacts(rough) == artefacts(calm)
    assert len(artefacts(calm)) == 2 and all(len(files) >= 3 for files in artefacts(calm).values())
    begun = [sum(isinstance(event, RunStarted) for event in run.events()[0]) for run in RunStore(rough).list()]
    assert sorted(begun) == [1, 2], "one was taken up where it was, none anew"
    (study, read), (calm_study, _) = opened(plan, rough), opened(plan, calm)
    measured = [one.values for one in standings(study, read)]
    assert measured == [one.values for one in standings(calm_study, read)]
    assert all(map(math.isfinite, measured[0])) and measured[0] != measured[1]


def test_a_subject_without_photos_fails_alone_and_can_be_mended(
    tmp_path: Path, write_plan: WritePlan, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    plan, data = write_plan(folders="empty missing disc"), tmp_path / "data"
    assert main(["sweep", str(plan), "--data-dir", str(data)]) == 1
    said = capfd.readouterr().out
    assert "There are no photos in" in said and "There is no folder" in said and "2 of 3 runs are not done" in said
    with (data / "sweeps/ranks/table.csv").open() as file:
        rows = {row["subject"]: row for row in csv.DictReader(file)}
    assert [rows[name]["state"] for name in ("empty", "missing", "disc")] == ["failed", "failed", "done"]
    assert "empty; add 3 to 10 photos" in rows["empty"]["run"]
    assert rows["disc"]["run"] == RunStore(data).list()[0].id and rows["disc"]["gain"] == "-"
    assert "<svg" in (data / "sweeps/ranks/plot.svg").read_text()

    shutil.copytree(tmp_path / "disc", tmp_path / "empty", dirs_exist_ok=True)
    study, read = opened(plan, data)
    enqueue(study, read.rows[2])  # as by another who looked at the same moment
    worker_on(study, read, data).work()
    assert [one.state for one in standings(study, read)] == ["done", "failed", "done"]
    assert len(RunStore(data).list()) == 2, "what was done is not done again"


def test_a_stopped_worker_saves_and_gives_its_row_back(tmp_path: Path, write_plan: WritePlan) -> None:
    study, plan = opened(write_plan(), tmp_path / "data")
    place = RunStore(tmp_path / "data/sweeps/ranks/rows/0000")

    def has_begun() -> bool:
        return any(isinstance(event, StepFinished) for run in place.list() for event in run.events()[0])

    worker_on(study, plan, tmp_path / "data", should_stop=has_begun).work()
    assert [one.state for one in standings(study, plan)] == ["waiting"]
    assert place.list()[0].checkpoint().step == 1 and not RunStore(tmp_path / "data").list()


def test_a_worker_taken_for_dead_ends_nothing_and_its_row_is_done_once(tmp_path: Path, write_plan: WritePlan) -> None:
    import optuna

    study, plan = opened(write_plan(), tmp_path / "data")
    own = worker_on(study, plan, tmp_path / "data")

    def make_run_slowly(place: RunStore, row: Row) -> Run:
        study.tell(0, state=optuna.trial.TrialState.FAIL)  # as another worker does
        enqueue(study, row)
        return own._make_run(place, row)

    worker_on(study, plan, tmp_path / "data", make_run=make_run_slowly).work()
    (standing,) = standings(study, plan)
    assert standing.state == "done" and [run.id for run in RunStore(tmp_path / "data").list()] == [standing.run]


def test_a_worker_killed_before_its_first_sign_of_life_costs_no_row(
    tmp_path: Path, write_plan: WritePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Really killed, between taking the row and all else; and a trial of Optuna's own, which has no row."""
    study, plan = opened(write_plan(), tmp_path / "data")
    url = f"sqlite:///{(tmp_path / 'data/sweeps/ranks/sweep.db').as_posix()}"
    code = (
        f"import os, optuna; study = optuna.load_study(study_name='ranks', storage={url!r}); study.ask(); study.ask()"
    )
    assert subprocess.run([sys.executable, "-c", f"{code}; os.kill(os.getpid(), 9)"], check=False).returncode == -9
    assert [one.state for one in standings(study, plan)] == ["training"]
    release_the_dead(study, plan)
    assert [one.state for one in standings(study, plan)] == ["training"], "it may have taken the row just now"
    monkeypatch.setattr(study_module, "UNBEGUN_SECONDS", 0)
    for _ in range(2):
        release_the_dead(study, plan)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "FAIL", "WAITING"]
    worker_on(study, plan, tmp_path / "data").work()
    assert [one.state for one in standings(study, plan)] == ["done"]


def test_what_has_begun_is_not_taken_for_dead(
    tmp_path: Path, write_plan: WritePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, plan = opened(write_plan(), tmp_path / "data")
    own = worker_on(study, plan, tmp_path / "data")
    monkeypatch.setattr(study_module, "UNBEGUN_SECONDS", 0)
    seen: list[str] = []

    def make_run(place: RunStore, row: Row) -> Run:
        release_the_dead(study, plan)
        seen.append(standings(study, plan)[0].state)
        return own._make_run(place, row)

    worker_on(study, plan, tmp_path / "data", make_run=make_run).work()
    assert seen == ["training"] and len(study.trials) == 1


def test_one_name_is_one_sweep(tmp_path: Path, write_plan: WritePlan, capsys: pytest.CaptureFixture[str]) -> None:
    opened(write_plan(), tmp_path / "data")
    assert main(["sweep", str(write_plan(axes="rank = [2, 8]")), "--data-dir", str(tmp_path / "data")]) == 1
    assert "already a sweep called ranks, with other settings; write another name" in capsys.readouterr().err


def test_what_is_missing_is_said_with_its_remedy(
    tmp_path: Path, write_plan: WritePlan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sweep", str(write_plan()), "--data-dir", str(tmp_path / "data")]
    assert main([*command, "--storage", "nosql://here"]) == 1
    assert "The database of the sweep cannot be opened" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert main(command) == 1
    assert "run: python -m pip install -r requirements-sweep.txt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("rank = [2]", "rnak = [2]", "no setting called 'rnak'"),
        ("rank = [2]", "rank = [2, 0]", "rank cannot be 0"),
        ("rank = [2]", "rank = 2", r"rank needs a list"),
        ("rank = [2]", "seed = [2]", "seed is no part of settings"),
        ("rank = [2]", "preset = ['fast']", "no preset 'fast'"),
        ("rank = [2]", f"rank = {[*range(1, 200)]}\nsteps = {[*range(1, 200)]}", "39,601 runs"),
        ("seeds = [1]", "sedes = [1]", "no part called 'sedes'"),
        ("seeds = [1]", "name = '../up'", "cannot be that of a folder"),
        ("seeds = [1]", "seeds = [1", "cannot be read"),
        ("[[subjects]]", "[[things]]", "no part called 'things'"),
        ('photos = "disc"', "", 'A subject needs photos = "its folder"'),
        ('subject = "car"', 'subject = " "', "subject is empty"),
    ],
)
def test_a_bad_plan_is_refused_before_anything_starts(
    tmp_path: Path, write_plan: WritePlan, capsys: pytest.CaptureFixture[str], before: str, after: str, words: str
) -> None:
    plan = write_plan()
    plan.write_text(plan.read_text().replace(before, after))
    assert main(["sweep", str(plan), "--data-dir", str(tmp_path / "data")]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line and str(plan) in line and not (tmp_path / "data").exists()


def test_the_example_of_the_manual_is_a_plan(tmp_path: Path) -> None:
    manual = (ROOT / "docs" / "sweep.md").read_text(encoding="utf-8")
    (tmp_path / "example.toml").write_text(manual.split("```toml\n")[1].split("```")[0], encoding="utf-8")
    plan = read_plan(tmp_path / "example.toml", load_presets())
    assert (plan.name, len(plan.rows)) == ("plain-or-not", 16)
    first, last = plan.rows[0], plan.rows[-1]
    assert first.photos == tmp_path / "photos/backpack" and first.config.subject == "backpack"
    assert (first.config.stabilization, first.config.rank, first.config.seed) == (1.0, 4, 0)
    assert (last.config.stabilization, last.config.rank, last.config.seed) == (0.0, 16, 1)
    assert last.config.identifier == "qrx" and last.config.steps == 300
    assert first.label == "backpack, rank 4, preset regularization-standard, seed 0"


def test_what_counts_is_measured_at_the_kept_step() -> None:
    summary = RunSummary.new(Run(Path()), TrainingConfig(subject="car"), 4)
    assert metrics(summary) == (-math.inf, math.inf, math.inf)
    for step, shots, views, kept in ((10, 0.3, 0.2, 10), (20, 0.6, 0.25, 20), (30, 0.9, 0.1, 20)):
        summary.add([DriftMeasured(step=step, drift=step / 100)])
        summary.add(
            [SplitMeasured(step=step, cells=(), gains=(), shots=shots, views=views, kept_step=kept, message="")]
        )
    assert metrics(summary) == pytest.approx((0.25, 0.35, 0.2))


@pytest.mark.parametrize("kind", ["slurm", "skypilot", "hfjobs"])
def test_a_job_file_starts_the_same_command_elsewhere(
    tmp_path: Path, write_plan: WritePlan, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    import yaml

    plan = write_plan()
    plan.write_text(plan.read_text().replace('base = "', 'base = "pocket" # '))
    command = ["sweep", str(plan), "--data-dir", "/shared/data", "--storage", "postgresql://me:hush@db/x"]
    assert main([*command, "--render", kind, "--out", str(tmp_path), "--workers", "3"]) == 0
    (path,) = (found for found in tmp_path.glob("ranks.*") if found.suffix != ".toml")
    text, said = path.read_text(), capsys.readouterr().out
    assert str(path) in said and "hush" not in text + said and "APT_SWEEP_STORAGE" in text
    where = f"{plan} --data-dir /shared/data" if kind == "slurm" else "/plan/ranks.toml --data-dir /data"
    assert f"-m apt_engine sweep {where} --workers 1" in text
    if kind == "skypilot":
        task = yaml.safe_load(text)
        assert task["file_mounts"] == {"/plan": str(tmp_path)} and task["workdir"] == str(ROOT)
    else:
        assert subprocess.run(["bash", "-n", str(path)], check=False).returncode == 0
        assert ("--array=1-3" if kind == "slurm" else "seq 3") in text
    plan.write_text(plan.read_text().replace('"disc"', '"../elsewhere"'))
    assert main([*command, "--render", kind, "--out", str(tmp_path)]) == (0 if kind == "slurm" else 1)
    assert kind == "slurm" or "does not lie in the folder of ranks.toml" in capsys.readouterr().err
