"""What the app stands on, file by file: `python -m tools.locks make | check | licences | audit | sbom FILE`.

`make` writes the locks with uv, for every system and Python that is supported; `audit` and `sbom` call other tools.
None of the three is needed to run the app; `pip install -r tools/release.txt` brings them.
"""

import argparse
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.launch import ROOT, TORCH

OLDEST_PYTHON = "3.11"
APP, TEST, TORCH_LOCK = (ROOT / f"requirements{name}.lock" for name in ("", "-test", "-torch"))
# The launcher installs torch apart, in the build that fits the computer, so only its own lock has it and what it runs on.
WITH_TORCH = re.compile(r"(torch|triton|nvidia-|cuda-)")
ALLOWED = re.compile(
    r"\b(apache|mit|bsd|isc|psf|python software foundation|mpl|mozilla public license 2|unlicense|zlib|hpnd|mit-cmu|0bsd)\b",
    re.IGNORECASE,
)
REFUSED = re.compile(r"\b(a?gpl|affero|sspl|noncommercial|non-commercial|cc-by-nc)", re.IGNORECASE)
LESSER = re.compile(r"lgpl|lesser", re.IGNORECASE)
HOW = "The tool {} is not installed; `pip install -r tools/release.txt` brings it."


def main(arguments: list[str] | None = None) -> int:
    """Do one of them; 0 where all is well."""
    parser = argparse.ArgumentParser(description="The files that the app stands on.")
    commands = parser.add_subparsers(required=True, dest="command")
    commands.add_parser("make", help="write the locks anew, with the newest versions that fit")
    commands.add_parser("check", help="whether the locks hold what is required, and this environment what is locked")
    commands.add_parser("licences", help="of each locked package that is installed here")
    commands.add_parser("audit", help="known holes of the locked versions, as the package index tells them")
    commands.add_parser("sbom", help="write all of it as a CycloneDX file").add_argument("file", type=Path)
    options = parser.parse_args(arguments)
    match options.command:
        case "make":
            return make()
        case "check":
            return _tell(check(), "The locks hold what is required, and this environment what is locked.")
        case "licences":
            return _tell(refused_licences(), "Every licence may be used with this program.")
        case "audit":
            return audit()
        case _:
            return sbom(options.file)


def make() -> int:
    """Write the three locks, each fitting the one before."""
    every = ["--universal", "--generate-hashes", "--no-annotate", "--upgrade", "--python-version", OLDEST_PYTHON]
    every += ["--custom-compile-command", "python -m tools.locks make"]
    wishes = ROOT / "requirements.txt"
    torch = APP.with_name("torch.in")
    torch.write_text(f"{TORCH}\n", encoding="utf-8")
    try:
        APP.write_text(_without_torch([str(wishes), str(torch), *every]), encoding="utf-8")
        TORCH_LOCK.write_text(_compile([str(torch), "-c", str(APP), *every]), encoding="utf-8")
        tests = [str(ROOT / "requirements-test.txt"), "-c", str(APP), "-c", str(TORCH_LOCK), *every]
        TEST.write_text(_without_torch(tests), encoding="utf-8")
    finally:
        torch.unlink()
    return 0


def _without_torch(arguments: list[str]) -> str:
    """A lock that leaves out torch and what it runs on."""
    names = {name for name, _ in pins(_compile(arguments)) if WITH_TORCH.match(name)}
    return _compile([*arguments, *(part for name in sorted(names) for part in ("--no-emit-package", name))])


def pins(lock: str) -> Iterator[tuple[str, Requirement]]:
    """The packages of a lock by name, each with its version and where it is for."""
    for line in lock.splitlines():
        if re.match(r"[A-Za-z0-9].*==", line):
            pin = Requirement(line.removesuffix("\\").strip())
            yield canonicalize_name(pin.name), pin


def pinned(*locks: Path) -> dict[str, str]:
    """Versions by name of what this computer takes from the locks."""
    here = {key: str(value) for key, value in default_environment().items()}
    found = {}
    for lock in locks:
        for name, pin in pins(lock.read_text(encoding="utf-8")):
            if pin.marker is None or pin.marker.evaluate(here):
                found[name] = str(pin.specifier).removeprefix("==")
    return found


def wished(file: Path) -> Iterator[Requirement]:
    """What a file of requirements asks for, with the files that it names."""
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("-r "):
            yield from wished(file.parent / line.removeprefix("-r ").strip())
        elif line and not line.startswith("#"):
            yield Requirement(line)


def check() -> list[str]:
    """What is wrong with the locks, a sentence each."""
    wrong = []
    for wishes, locks in ((ROOT / "requirements.txt", (APP, TORCH_LOCK)), (ROOT / "requirements-test.txt", (TEST,))):
        versions = pinned(*locks)
        for wish in wished(wishes):
            version = versions.get(canonicalize_name(wish.name))
            if version is None or not wish.specifier.contains(version):
                wrong.append(f"{wish} is not what {locks[0].name} has ({version}); run `python -m tools.locks make`.")
    for lock in (APP, TEST, TORCH_LOCK):
        text = lock.read_text(encoding="utf-8")
        bare = [name for name, pin in pins(text) if f"{pin.name}=={str(pin.specifier)[2:]}" not in _with_hashes(text)]
        wrong += [f"{name} in {lock.name} has no hash; run `python -m tools.locks make`." for name in bare]
    for name, version in pinned(APP, TEST).items():
        present = _installed(name)
        if present != version:
            wrong.append(f"{name} is {present or 'not installed'} here, and {version} in the lock.")
    return wrong


def refused_licences() -> list[str]:
    """Packages whose licence is not allowed, or not known, a sentence each."""
    wrong = []
    for name in pinned(APP, TEST):
        try:
            licence = _licence(importlib.metadata.metadata(name))
        except importlib.metadata.PackageNotFoundError:
            continue  # `check` says so
        print(f"{name}: {licence or 'unknown'}")
        is_refused = bool(REFUSED.search(LESSER.sub("", licence)))
        if is_refused or not (ALLOWED.search(licence) or LESSER.search(licence)):
            wrong.append(f"{name} is under {licence or 'no licence that it names'}; look at it before it is shipped.")
    return wrong


def audit() -> int:
    """Ask the index for advisories. One that serves none proves nothing, and counts as a failure."""
    if not _has("pip_audit"):
        return _tell([HOW.format("pip-audit")], "")
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--require-hashes", "--strict"]
    return max(subprocess.run([*command, "-r", str(lock)], check=False).returncode for lock in (APP, TEST))


def sbom(file: Path) -> int:
    """Write a bill of materials: every locked file with its hash."""
    if not _has("cyclonedx_py"):
        return _tell([HOW.format("cyclonedx-py")], "")
    whole = file.with_suffix(".requirements.txt")
    whole.write_text("".join(lock.read_text(encoding="utf-8") for lock in (APP, TORCH_LOCK)), encoding="utf-8")
    command = [sys.executable, "-m", "cyclonedx_py", "requirements", str(whole), "--output-file", str(file)]
    try:
        return subprocess.run([*command, "--output-reproducible", "--of", "JSON"], check=False).returncode
    finally:
        whole.unlink()


def _compile(arguments: list[str]) -> str:
    return subprocess.run(
        ["uv", "pip", "compile", "-q", *arguments], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout


def _with_hashes(lock: str) -> str:
    """The pins that a hash follows."""
    return "\n".join(re.findall(r"^(\S+==\S+).*\\\n +--hash=sha256:[0-9a-f]{64}", lock, re.MULTILINE))


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _licence(about: importlib.metadata.PackageMetadata) -> str:
    """As a package names it: the expression, else its classifiers, else the first line of the text."""
    classifiers = [line.rpartition(" :: ")[2] for line in about.get_all("Classifier", []) if line.startswith("License")]
    expression, text = (next(iter(about.get_all(name, [])), "") for name in ("License-Expression", "License"))
    return expression or "; ".join(classifiers) or text.strip().partition("\n")[0]


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _tell(wrong: list[str], right: str) -> int:
    print("\n".join(wrong) or right)
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
