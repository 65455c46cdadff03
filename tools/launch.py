"""What launch.sh and launch.bat share: make .venv, install what is missing, then become the app, the tests or the command line.

Runs before anything is installed, so it needs the standard library alone.
"""

import contextlib
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
INTERRUPTED = 130

TORCH = "torch==2.13.0"
# Where pip is told to look elsewhere than at PyPI, files have other hashes than those of the locks.
OTHER_INDEX = re.compile(r"\b(index-url|extra-index-url|find-links|no-index)\b")
# PyTorch's own install index. On Windows the default wheel knows no NVIDIA card; everywhere else the default is right.
CUDA_INDEX = "https://download.pytorch.org/whl/cu130"
OLD_CUDA_INDEX = "https://download.pytorch.org/whl/cu126"
# CUDA 13 needs a driver and a card (compute capability, Turing) at least this new.
CUDA_13_DRIVER = 580
CUDA_13_CAPABILITY = 7.5

# No libraries call home, and text is UTF-8 whatever the system thinks.
ENVIRONMENT = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONUTF8": "1"}
IS_USABLE = (
    "import sys, importlib.util as u; sys.exit(not ((3, 11) <= sys.version_info < (3, 14) and u.find_spec('pip')))"
)
UNFINISHED = "unfinished"
# The whole suite, a process a core; at most four, for each holds 1 GB. For a few tests they start up in vain.
IN_PARALLEL = ("-n", "logical", "--maxprocesses", "4", "--dist", "worksteal")


class LaunchError(Exception):
    """Why the app cannot start, and what to do, in one sentence."""


@dataclass(frozen=True)
class Part:
    """One installation by pip, done again whenever `fingerprint` differs from the stamp it left, or something of it is gone.

    Attributes:
        requirements: what pip is asked for where hashes are not compared.
        lock: the same, all that it needs included, with versions and hashes.
    """

    name: str
    about: str
    requirements: tuple[str, ...]
    lock: Path
    fingerprint: str


def main(arguments: list[str]) -> int:
    """Install what is missing and start what was asked for; returns the exit code where it returns at all."""
    try:
        python = prepare(ROOT, with_tests=arguments[:1] == ["test"])
        if arguments[:1] == ["test"]:
            os.chdir(ROOT)
        return start(command_for(arguments, python, ROOT), environment_for(ROOT, os.environ))
    except LaunchError as error:
        print(f"APT Studio: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED


def command_for(arguments: list[str], python: Path, root: Path) -> list[str]:
    """The command that `arguments` ask for: the tests, the command line, or else the app."""
    match arguments:
        case ["test"]:
            return [str(python), "-m", "pytest", *IN_PARALLEL]
        case ["test", *rest]:
            return [str(python), "-m", "pytest", *rest]
        case ["cli", *rest]:
            return [*module(python, "apt_engine"), *rest]
        case _:
            return [str(python), str(root / "app.py"), *arguments]


def module(python: Path, name: str) -> list[str]:
    """How to run a module. -P: one of its name, or of those it imports, in the folder we were started from must not be taken."""
    return [str(python), "-P", "-m", name]


def environment_for(root: Path, present: Mapping[str, str]) -> dict[str, str]:
    """Environment of the started program: ours, and imports from `root` whatever folder the user is in."""
    return {**present, **ENVIRONMENT, "PYTHONPATH": str(root)}


def start(command: list[str], environment: dict[str, str]) -> int:
    """Become the command, so that signals and the exit code are its own; on Windows, which cannot, wait for it."""
    sys.stdout.flush()
    if sys.platform != "win32":
        os.execve(command[0], command, environment)
    process = subprocess.Popen(command, env=environment)
    try:
        return process.wait()
    except KeyboardInterrupt:  # it got the same Ctrl-C and ends by itself
        process.wait()
        return INTERRUPTED


def prepare(root: Path, *, with_tests: bool) -> Path:
    """Python of a `.venv` in `root` that has everything; makes and fills it where needed.

    Raises:
        LaunchError: this computer lacks something, or pip failed.
    """
    venv = root / ".venv"
    python = venv / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    parts = parts_of(root, os.environ, with_tests=with_tests)
    if is_usable(python) and not missing(parts, venv):
        return python
    with locked(root / ".venv.lock"):  # another start may be at it, or may just have done it
        if not is_usable(python):
            make(venv)
        for part in missing(parts, venv):
            install(part, python, venv)
    return python


def parts_of(root: Path, environment: Mapping[str, str], *, with_tests: bool) -> list[Part]:
    """What has to be installed, in order: torch in its own call, so that nothing else decides which build it is."""
    index = environment.get("APT_TORCH_INDEX", "")
    torch_lock = root / "requirements-torch.lock"
    parts = [Part("torch", "PyTorch, up to 3 GB", (TORCH,), torch_lock, _digest(f"{TORCH} {index}".encode()))]
    files = {"app": "requirements", "test": "requirements-test"}
    abouts = {"app": "the other libraries, about 300 MB", "test": "the test tools"}
    for name in ("app", "test") if with_tests else ("app",):
        path, lock = root / f"{files[name]}.txt", root / f"{files[name]}.lock"
        content = path.read_bytes() + (lock.read_bytes() if lock.exists() else b"")
        parts.append(Part(name, abouts[name], ("-r", str(path)), lock, _digest(content)))
    return parts


def missing(parts: list[Part], venv: Path) -> list[Part]:
    """The parts whose stamp does not say that they are installed as they stand now, or whose packages are gone."""
    there = packages_in(venv)
    stamps = [(part, read_stamp(venv, part)) for part in parts]
    return [part for part, (left, packages) in stamps if left != part.fingerprint or not packages <= there]


def read_stamp(venv: Path, part: Part) -> tuple[str, set[str]]:
    """What the last installation of a part left behind, and which packages were there then; empty when there was none."""
    try:
        left, *packages = _stamp(venv, part).read_text(encoding="utf-8").splitlines() or [""]
    except (OSError, ValueError):
        return "", set()
    return left, set(packages)


def packages_in(venv: Path) -> set[str]:
    """Names of what can be imported from a venv's packages: files, and folders that are not empty."""
    found = [path for place in ("lib/python*/site-packages", "Lib/site-packages") for path in venv.glob(f"{place}/*")]
    hidden = ("__pycache__", "~")  # the second is what pip leaves of a package that it replaces
    return {
        path.name
        for path in found
        if path.suffix not in (".dist-info", ".pth")
        and not path.name.startswith(hidden)
        and (path.is_file() or any(path.iterdir()))
    }


def install(part: Part, python: Path, venv: Path) -> None:
    """Install one part with pip's own progress on the terminal; its stamp is written last.

    Raises:
        LaunchError: pip failed; the next start tries again.
    """
    print(f"Installing {part.about} ...", flush=True)
    options: list[str] = []
    index = torch_index(sys.platform, os.environ) if part.name == "torch" else ""
    if index:
        options += ["--index-url", index]
    left, _ = read_stamp(venv, part)
    # Another build of the same version, half of one, or one whose files are gone counts as installed for pip.
    if left == part.fingerprint or (left and part.name == "torch"):
        options += ["--force-reinstall"]
    _stamp(venv, part).write_text(UNFINISHED, encoding="ascii")
    pip = [*module(python, "pip"), "install", "--disable-pip-version-check", "--no-input", *options]
    environment = environment_for(ROOT, os.environ)
    has_hashes = part.lock.exists() and not index and compares_hashes(python, os.environ)
    for chosen in choices(part, venv, has_hashes=has_hashes):
        if subprocess.run([*pip, *chosen], env=environment, check=False).returncode == 0:
            break
    else:
        raise LaunchError(
            f"{part.about} could not be installed, pip says why above; check the network and the free disk space and "
            "start again, it goes on from here. If that does not help, delete the folder .venv first."
        )
    _stamp(venv, part).write_text("\n".join([part.fingerprint, *sorted(packages_in(venv))]), encoding="utf-8")


def choices(part: Part, venv: Path, *, has_hashes: bool) -> list[list[str]]:
    """What to ask pip for, the next where it refuses one: the very files of the lock; else its versions, else any that fit."""
    if not part.lock.exists():
        return [list(part.requirements)]
    if has_hashes:
        return [["--require-hashes", "--no-deps", "-r", str(part.lock)]]
    versions = venv / f"{part.lock.stem}-versions.txt"
    versions.write_text(versions_of(part.lock.read_text(encoding="utf-8")), encoding="utf-8")
    return [[*part.requirements, "-c", str(versions)], list(part.requirements)]


def versions_of(lock: str) -> str:
    """A lock without its hashes: pip takes constraints from any index, and hashes from one alone."""
    pins = [line.removesuffix("\\").strip() for line in lock.splitlines() if re.match(r"[A-Za-z0-9].*==", line)]
    return "\n".join(pins) + "\n"


def compares_hashes(python: Path, environment: Mapping[str, str]) -> bool:
    """Whether files must have the hashes of the lock: unless APT_HASHES is 0, or pip is told to look elsewhere than at PyPI."""
    chosen = environment.get("APT_HASHES", "")
    if chosen in ("0", "1"):
        return chosen == "1"
    told = subprocess.run(
        [*module(python, "pip"), "config", "list"], capture_output=True, text=True, check=False
    ).stdout
    is_elsewhere = bool(OTHER_INDEX.search(told))
    if is_elsewhere:
        print("pip has an index of its own here: versions are held to the lock, hashes are not compared.", flush=True)
    return not is_elsewhere


def torch_index(system: str, environment: Mapping[str, str]) -> str:
    """Address pip takes torch from, empty for its default: APT_TORCH_INDEX, or CUDA for an NVIDIA card on Windows.

    Raises:
        LaunchError: there is no torch for this computer.
    """
    if chosen := environment.get("APT_TORCH_INDEX"):
        return chosen
    if system == "darwin" and platform.machine() == "x86_64":
        raise LaunchError(
            "PyTorch has no build for Intel Macs; on Apple silicon install the arm64 Python of python.org."
        )
    if system != "win32" or not shutil.which("nvidia-smi"):
        return ""
    query = ["nvidia-smi", "--query-gpu=driver_version,compute_cap", "--format=csv,noheader"]
    return cuda_index(subprocess.run(query, capture_output=True, text=True, check=False).stdout)


def cuda_index(cards: str) -> str:
    """Index for NVIDIA cards, one line `driver version, compute capability` each: CUDA 13, or 12.6 for what is older."""
    found = re.findall(r"^(\d+)[\d.]*, *(\d+\.\d+)", cards, re.MULTILINE)
    fits = found and all(int(driver) >= CUDA_13_DRIVER and float(cap) >= CUDA_13_CAPABILITY for driver, cap in found)
    return CUDA_INDEX if fits else OLD_CUDA_INDEX


def is_usable(python: Path) -> bool:
    """Whether a venv's Python runs, has a version we support, and pip. A moved folder or an upgraded system breaks it."""
    try:
        return subprocess.run([python, "-I", "-c", IS_USABLE], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def make(venv: Path) -> None:
    """Make a new, empty venv with pip, in place of what is there.

    Raises:
        LaunchError: this Python cannot make one.
    """
    if not importlib.util.find_spec("ensurepip"):
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise LaunchError(
            f"Python {version} lacks its venv part; on Debian or Ubuntu run: sudo apt install python{version}-venv, "
            "elsewhere install Python 3.11 to 3.13 from python.org."
        )
    from venv import EnvBuilder  # the same part of Debian's packages brings both

    print(f"Making {venv} with Python {platform.python_version()} ...", flush=True)
    try:
        EnvBuilder(clear=True, with_pip=True, symlinks=sys.platform != "win32").create(venv)
    except (OSError, subprocess.CalledProcessError) as error:
        raise LaunchError(
            f"{venv} could not be made ({error}); close other windows of APT Studio, delete that folder and start again."
        ) from error


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the right to change .venv. The system drops the lock with the process, however that ends.

    Raises:
        LaunchError: the folder cannot be written.
    """
    try:
        file = path.open("a", encoding="ascii")
    except OSError as error:
        raise LaunchError(
            f"Cannot write in {path.parent} ({error.strerror}); move APT Studio to a folder of yours."
        ) from error
    with file:
        if not _try_lock(file):
            print("Another start is installing; waiting for it ...", flush=True)
            while not _try_lock(file):
                time.sleep(0.5)
        yield


def _try_lock(file: IO[str]) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _stamp(venv: Path, part: Part) -> Path:
    return venv / f"apt-studio-{part.name}.stamp"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
