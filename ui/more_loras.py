"""Further LoRAs beside the chosen one on the Generate tab: rows of a LoRA and its strength, as scripts draw them."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from apt_engine.errors import ConfigError
from apt_engine.settings.sampling import LORA_FILE, MOST_LORAS, STRENGTHS, SampleRequest, name_of, read_lora
from ui import models
from ui.context import AppContext
from ui.models import FILE
from ui.scripted import scripted
from ui.words import say

Row = dict[str, Any]  # {id: of the choice, strength}


def build(context: AppContext) -> gr.HTML:
    """Make the rows, none at first."""
    return scripted("loras", show(context, [], models.BARE), elem_id="more-loras")


def show(context: AppContext, rows: Sequence[Row], chosen: str) -> dict[str, Any]:
    """What the script draws beside the chosen model; rows whose LoRA is gone are left out."""
    choices = [choice for choice in models.list_models(context) if choice["id"] != models.BARE]
    known = {choice["id"] for choice in choices}
    left = [row for row in rows if row["id"] in known]
    return {"choices": choices, "rows": left, "chosen": chosen, "most": MOST_LORAS - 1, "highest": STRENGTHS[1]}


def read(context: AppContext, rows: Sequence[Row]) -> list[str]:
    """The rows as a request says them.

    Raises:
        ConfigError: a LoRA is not here any more.
    """
    return [f"{_source(context, str(row['id']))}:{row['strength']}" for row in rows]


def _source(context: AppContext, model: str) -> str:
    file = models.file_of(context, model)
    is_there = file or any(choice["id"] == model for choice in models.list_models(context))
    if not is_there:
        name = model.removeprefix(FILE)
        raise ConfigError(say("The LoRA {name} is not here any more; choose another, or take it out.", name=name))
    return str(file) if file else f"{model}@{models.KEPT}"


def caption(context: AppContext, first: str, request: SampleRequest) -> str:
    """What stands under a picture: each LoRA, with its strength where that is not 1 or there are several.

    Args:
        context: of the page.
        first: what the request's own LoRA is called; empty for none.
        request: the request.

    Raises:
        RunError: there is no such run.
    """
    worn = [(first, request.strength)] if first else []
    for source, strength in map(read_lora, request.loras):
        run, _, checkpoint = source.partition("@")
        is_file = source.lower().endswith(LORA_FILE)
        worn.append(
            (name_of(source)[: -len(LORA_FILE)] if is_file else models.name_of(context, run, checkpoint), strength)
        )
    if len(worn) == 1 and worn[0][1] == 1:
        return worn[0][0]
    return " + ".join(say("{name} at {strength:g}", name=name, strength=strength) for name, strength in worn)


def rows_of(context: AppContext, request: SampleRequest) -> tuple[list[Row], list[str]]:
    """The rows of a request that a picture told, and the names of those LoRAs that are not here."""
    known = {choice["id"] for choice in models.list_models(context)}
    rows: list[Row] = []
    gone: list[str] = []
    for source, strength in map(read_lora, request.loras):
        is_file = source.lower().endswith(LORA_FILE)
        model = f"{FILE}{name_of(source)}" if is_file else source.partition("@")[0]
        if model in known:
            rows.append({"id": model, "strength": strength})
        else:
            gone.append(model.removeprefix(FILE))
    return rows, gone
