"""The launcher, run for real: in a folder with blanks and accents, with pip, and with wheels the test makes itself."""

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tools import launch

REPOSITORY = launch.ROOT
# Stands in for the real app, which the other tests start: says how it was started.
APP = """\
import os, sys, tiny
print("app", sys.argv[1:], os.getcwd(), os.environ["GRADIO_ANALYTICS_ENABLED"], os.environ["PYTHONPATH"])
sys.exit(7 if "--fail" in sys.argv else 0)
"""
posix_only = pytest.mark.skipif(os.name == "nt", reason="launch.sh is for Linux and macOS")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the launcher with an app that needs torch and one tiny package; it is started from a stranger's folder."""
    for name in ("ensurepip", "venv", "pip", "importlib", "ssl", "zipfile", "tempfile", "torch"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong module')", encoding="utf-8")
    folder = tmp_path / "Ünï code dir"
    (folder / "tools").mkdir(parents=True)
    shutil.copy(REPOSITORY / "launch.sh", folder)
    shutil.copy(REPOSITORY / "tools" / "launch.py", folder / "tools")
    (folder / "app.py").write_text(APP, encoding="utf-8")
    (folder / "requirements.txt").write_text("torch>=2.8\ntiny\n", encoding="utf-8")
    return folder


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A folder of wheels that pip is told to look at alone: `torch` of the pinned version, and nothing in it."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    write_wheel(folder, "torch", launch.TORCH.partition("==")[2])
    return folder


def write_wheel(folder: Path, name: str, version: str) -> None:
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", f"VERSION = {version!r}\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


def begin(folder: Path, *arguments: str, wheels: Path | None = None, **variables: str) -> subprocess.Popen[str]:
    """Start the copied launch.sh from another folder; pip sees only `wheels`."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "APT_"))},
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": (wheels or folder).as_uri(),
        **variables,
    }
    return subprocess.Popen(
        [str(folder / "launch.sh"), *arguments],
        cwd=folder.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def run(folder: Path, *arguments: str, wheels: Path | None = None, **variables: str) -> tuple[int, str]:
    return finish(begin(folder, *arguments, wheels=wheels, **variables))


@posix_only
def test_the_first_start_installs_and_a_broken_one_is_taken_up_again(folder: Path, wheels: Path) -> None:
    python = folder / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(folder / "gone")  # as an upgrade of the system's Python leaves it
    code, output = run(folder, wheels=wheels)
    assert code == 1
    assert "Making" in output, "a venv whose Python is gone is made anew"
    assert "the other libraries" in output.splitlines()[-1], "the last line says what failed and what to do"

    write_wheel(wheels, "tiny", "1.0")
    starts = [begin(folder, "--port", "7001", wheels=wheels) for _ in range(2)]
    (code, output), (other_code, other_output) = map(finish, starts)
    assert (code, other_code) == (0, 0)
    told = f"app ['--port', '7001'] {folder.parent} False {folder}"
    assert told in output
    assert told in other_output
    both = output + other_output
    assert both.count("Installing the other libraries") == 1, "two starts at once install once"
    assert "PyTorch" not in both, "what was finished before is not done again"

    code, output = run(folder, "--fail")
    assert code == 7, "the app's exit code is the launcher's"
    assert output.splitlines() == [f"app ['--fail'] {folder.parent} False {folder}"], "a second start only starts"

    (folder / "requirements.txt").write_text("tiny>=2\n", encoding="utf-8")
    write_wheel(wheels, "tiny", "2.0")
    code, output = run(folder, wheels=wheels)
    assert code == 0
    assert "tiny-2.0" in output, "changed requirements are installed at the next start"


@posix_only
def test_packages_that_are_gone_are_installed_again_and_a_chain_of_links_leads_there(
    folder: Path, wheels: Path, tmp_path: Path
) -> None:
    write_wheel(wheels, "tiny", "1.0")
    assert run(folder, wheels=wheels)[0] == 0
    (packages,) = (folder / ".venv" / "lib").glob("python*/site-packages")
    (packages / "tiny.py").unlink()
    code, output = run(folder, wheels=wheels)
    assert code == 0
    assert "Installing the other libraries" in output
    assert "PyTorch" not in output

    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "second").symlink_to(Path("..") / folder.name / "launch.sh")
    (tmp_path / "launch.sh").symlink_to(tmp_path / "links" / "second")
    done = subprocess.run([tmp_path / "launch.sh", "x"], capture_output=True, text=True, check=False)
    (line,) = done.stdout.splitlines()  # nothing is installed: it is whole, and stays so
    assert line.startswith("app ['x']")


@posix_only
def test_files_have_the_hashes_of_the_lock_and_of_another_index_the_versions_where_it_has_them(
    folder: Path, wheels: Path
) -> None:
    write_wheel(wheels, "tiny", "1.0")
    write_wheel(wheels, "tiny", "2.0")
    digest = hashlib.sha256((wheels / "tiny-1.0-py3-none-any.whl").read_bytes()).hexdigest()
    lock = folder / "requirements.lock"
    lock.write_text(f"tiny==1.0 \\\n    --hash=sha256:{'0' * 64}\n", encoding="utf-8")
    code, output = run(folder, wheels=wheels, APT_HASHES="1")
    assert code == 1
    assert "DO NOT MATCH" in output
    lock.write_text(f"tiny==1.0 \\\n    --hash=sha256:{digest}\n", encoding="utf-8")
    code, output = run(folder, wheels=wheels, APT_HASHES="1")
    assert code == 0
    assert "tiny-1.0" in output

    lock.write_text(f"tiny==2.0 \\\n    --hash=sha256:{'0' * 64}\n", encoding="utf-8")
    code, output = run(folder, wheels=wheels)
    assert code == 0
    assert "hashes are not compared" in output, "pip has an index of its own here"
    assert "tiny-2.0" in output
    lock.write_text(f"tiny==3.0 \\\n    --hash=sha256:{'0' * 64}\n", encoding="utf-8")
    code, output = run(folder, wheels=wheels)
    assert code == 0, "set-up never breaks on an index without the locked version"


@posix_only
def test_every_python_is_tried_before_giving_up(folder: Path, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("dirname", "sh"):
        (programs / name).symlink_to(str(shutil.which(name)))
    for name in ("python3.13", "python3.12", "python3"):
        (programs / name).write_text("#!/bin/sh\nexit 1\n", encoding="ascii")  # too old, or a shim to nothing
        (programs / name).chmod(0o755)
    code, output = run(folder, PATH=str(programs))
    assert code == 1
    assert "needs Python 3.11, 3.12 or 3.13" in output
    (programs / "python").write_text('#!/bin/sh\n[ "$1" = -I ] || echo "chosen for $*"\n', encoding="ascii")
    (programs / "python").chmod(0o755)
    assert run(folder, "a b", PATH=str(programs)) == (0, f"chosen for {folder}/tools/launch.py a b\n")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["PYTHON", "ROOT/app.py"]),
        (["--port", "1"], ["PYTHON", "ROOT/app.py", "--port", "1"]),
        (["test"], ["PYTHON", "-m", "pytest", *launch.IN_PARALLEL]),
        (["test", "-k", "x"], ["PYTHON", "-m", "pytest", "-k", "x"]),
        (["cli", "train", "--photos", "a b"], ["PYTHON", "-P", "-m", "apt_engine", "train", "--photos", "a b"]),
    ],
)
def test_the_first_word_chooses_the_program(arguments: list[str], expected: list[str]) -> None:
    command = launch.command_for(arguments, Path("PYTHON"), Path("ROOT"))
    assert [part.replace("\\", "/") for part in command] == expected


def test_the_command_line_imports_the_engine_from_any_folder(tmp_path: Path) -> None:
    """Even from a folder with a file that is named like one of our libraries."""
    (tmp_path / "platformdirs.py").write_text("raise SystemExit('the wrong module')", encoding="utf-8")
    command = launch.command_for(["cli", "runs", "--data-dir", "data"], Path(sys.executable), REPOSITORY)
    environment = launch.environment_for(REPOSITORY, os.environ)
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_stamps_follow_requirements_and_index(folder: Path, tmp_path: Path) -> None:
    (folder / "requirements-test.txt").write_text("pytest\n", encoding="utf-8")
    parts = launch.parts_of(folder, {}, with_tests=True)
    assert [part.name for part in parts] == ["torch", "app", "test"]
    for part in parts:
        (tmp_path / f"apt-studio-{part.name}.stamp").write_text(part.fingerprint, encoding="ascii")
    assert launch.missing(parts, tmp_path) == []

    (folder / "requirements-test.txt").write_text("pytest>=9\n", encoding="utf-8")
    changed = launch.parts_of(folder, {"APT_TORCH_INDEX": "https://example.org/whl"}, with_tests=True)
    assert [part.name for part in launch.missing(changed, tmp_path)] == ["torch", "test"]
    assert [part.name for part in launch.parts_of(folder, {}, with_tests=False)] == ["torch", "app"]


def test_the_torch_index_can_be_chosen_everywhere() -> None:
    chosen = {"APT_TORCH_INDEX": "https://example.org/whl"}
    assert {launch.torch_index(system, chosen) for system in ("linux", "darwin", "win32")} == {
        "https://example.org/whl"
    }
    assert launch.torch_index("linux", {}) == ""


@posix_only
def test_windows_takes_the_cuda_build_where_there_is_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert launch.torch_index("win32", {}) == ""
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho '581.29, 8.9'\n", encoding="ascii")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert launch.torch_index("win32", {}) == launch.CUDA_INDEX


@pytest.mark.parametrize(
    ("cards", "index"),
    [
        ("581.29, 8.9\n", launch.CUDA_INDEX),
        ("580.88, 7.5\n580.88, 12.0\n", launch.CUDA_INDEX),
        ("581.29, 6.1\n", launch.OLD_CUDA_INDEX),  # GTX 10: CUDA 13 dropped it
        ("560.94, 8.6\n", launch.OLD_CUDA_INDEX),
        ("581.29, 8.9\n581.29, 6.1\n", launch.OLD_CUDA_INDEX),
        ("", launch.OLD_CUDA_INDEX),  # nvidia-smi too old to answer
    ],
)
def test_old_cards_and_drivers_get_the_older_cuda(cards: str, index: str) -> None:
    assert launch.cuda_index(cards) == index


def test_an_intel_mac_is_told_that_there_is_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.raises(launch.LaunchError, match="Intel Macs"):
        launch.torch_index("darwin", {})


def test_a_python_without_its_venv_part_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ensurepip", None)  # what `import ensurepip` finds on a bare Debian
    with pytest.raises(launch.LaunchError, match="apt install python3"):
        launch.make(tmp_path / ".venv")


def test_the_windows_launcher_has_windows_line_ends_and_the_other_one_has_not() -> None:
    """cmd.exe loses its place in a file with bare line feeds; sh chokes on carriage returns."""
    batch, shell = (REPOSITORY / "launch.bat").read_bytes(), (REPOSITORY / "launch.sh").read_bytes()
    assert batch.count(b"\n") == batch.count(b"\r\n") > 0
    assert b"\r" not in shell
    assert os.access(REPOSITORY / "launch.sh", os.X_OK)
