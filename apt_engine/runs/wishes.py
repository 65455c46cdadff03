"""What somebody who watches a run wishes of whoever trains it: files in its folder, so that any process may ask and any may hear.

<run>/sample-now       a row of samples at the end of the step under way
<run>/prompts.json     the prompts of the samples from the next ones on; the run's own settings stay as they are
"""

import contextlib
import json

from apt_engine.errors import ConfigError
from apt_engine.reading.regular import read_json
from apt_engine.runs.files import write_atomically, writing
from apt_engine.runs.run import Run

MOST_PROMPTS = 12
LONGEST_PROMPT = 500  # characters


def ask_for_samples(run: Run) -> None:
    """Wish for samples now.

    Raises:
        DiskError: that cannot be written down.
    """
    with writing(run.path / "sample-now"):
        (run.path / "sample-now").touch()


def take_samples_wish(run: Run) -> bool:
    """Whether samples were wished for since this was last asked; one `stat` of a missing file as a rule."""
    with contextlib.suppress(OSError):
        (run.path / "sample-now").unlink()
        return True
    return False


def ask_for_prompts(run: Run, text: str) -> tuple[str, ...]:
    """Wish for other prompts, one a line, from the next samples on; returns them.

    Raises:
        ConfigError: there is none, or too many, or one is too long.
        DiskError: that cannot be written down.
    """
    prompts = tuple(" ".join(line.split()) for line in text.splitlines() if line.strip())
    if not prompts:
        raise ConfigError("There is no prompt left; write at least one, one a line.")
    if len(prompts) > MOST_PROMPTS:
        raise ConfigError(f"{len(prompts)} prompts are too many for a row of samples; keep at most {MOST_PROMPTS}.")
    for prompt in prompts:
        if len(prompt) > LONGEST_PROMPT:
            raise ConfigError(f"The prompt {prompt[:40]!r}... is too long; keep it within {LONGEST_PROMPT} characters.")
        if not prompt.isprintable():
            raise ConfigError(f"The prompt {prompt[:40]!r} holds a character that cannot be written; type it anew.")
    write_atomically(run.path / "prompts.json", json.dumps(prompts, ensure_ascii=False).encode())
    return prompts


def wished_prompts(run: Run) -> tuple[str, ...]:
    """The prompts that were asked for last; none where nobody did, or what they wrote cannot be used."""
    try:
        found: object = read_json(run.path / "prompts.json")
    except (OSError, ValueError):
        return ()
    if not isinstance(found, list) or not all(isinstance(prompt, str) for prompt in found):
        return ()
    return tuple(str(prompt)[:LONGEST_PROMPT] for prompt in found[:MOST_PROMPTS])
