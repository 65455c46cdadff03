"""LoRA files: of each layout a whole one, and what can be wrong with its header, its tensors and what it says about itself."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.utils import convert_state_dict_to_kohya
from safetensors.torch import load_file, save

from apt_engine.bases.base import BaseModel
from apt_engine.bases.registry import load_base
from apt_engine.errors import LoraError
from apt_engine.lora import adapter, files, foreign
from apt_engine.lora.about import ExportInfo
from benchmarks.hostile import places
from benchmarks.hostile.outcome import Outcome, judge

RANK = 4
ENDLESS = "(a+)+$"
Tensors = dict[str, torch.Tensor]


def loras(folder: Path, *, every: int = 1) -> Iterator[Outcome]:
    """Each file, or some of them, given to the pocket model as the page and the command line do."""
    base = load_base("pocket")
    whole, others = _whole(base, folder)
    path = folder / "hostile.safetensors"
    found = {**others, **_headers(whole), **_tensors(whole), **_settings(whole)}
    for name, content in list(found.items())[::every]:
        path.write_bytes(content)
        yield judge(name, lambda: _give(base, path), lambda _: _broken(base))
        path.unlink()
    for name, make in places.PLACES.items():
        make(path)
        yield judge(f"a LoRA that is {name}", lambda: _give(base, path), lambda _: "accepted")
        path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)


def _give(base: BaseModel, path: Path) -> None:
    foreign.remove(base)
    try:
        files.load(base, path)
    except LoraError:  # none of ours
        foreign.load(base, path)


@torch.no_grad()
def _broken(base: BaseModel) -> str:
    """What the model makes of noise is still a number."""
    noise = torch.randn(1, *base.latent_shape(32, 32), generator=torch.Generator().manual_seed(0))
    guess = base.predict(noise, torch.full((1,), 500), base.encode_prompts(["a cat"]))
    return "" if guess.isfinite().all() else "the model's guess is not finite"


def _whole(base: BaseModel, folder: Path) -> tuple[Path, dict[str, bytes]]:
    """One that changes something, in our layout, and the same in others."""
    adapter.attach(base.denoiser, RANK, 8.0, base.lora.attention, seed=1)
    for name, value in adapter.trainable_parameters(base.denoiser).items():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.01, generator=torch.Generator().manual_seed(2))
    whole, for_diffusers = (folder / f"{name}.safetensors" for name in ("whole", "diffusers"))
    files.save(base, whole)
    files.export_diffusers(base, for_diffusers, ExportInfo(name="a", resolution=64, trigger_phrase="a"))
    tensors = convert_state_dict_to_kohya(load_file(for_diffusers))  # we write none for the pocket model
    alphas = [key for key in tensors if key.endswith(".alpha")]
    found = {
        "whole": whole.read_bytes(),
        "whole for diffusers": for_diffusers.read_bytes(),
        "kohya without a header": save(tensors),
        "kohya without alphas": save({key: value for key, value in tensors.items() if key not in alphas}),
        "kohya with alphas of one number in a list": save({**tensors, **{key: tensors[key][None] for key in alphas}}),
    }
    for odd in (0.0, -1.0, 1e30, float("nan"), float("inf"), 3.0):
        found[f"kohya with an alpha of {odd}"] = save({**tensors, alphas[0]: torch.tensor(odd)})
    found["kohya with an alpha of ten numbers"] = save({**tensors, alphas[0]: torch.ones(10)})
    found["kohya with an alpha that is a name"] = save({**tensors, alphas[0]: torch.ones(3, 3)})
    return whole, found


def _headers(whole: Path) -> dict[str, bytes]:
    """Files that are not what their header says, or have none."""
    content = whole.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    entries, data = json.loads(content[8:end]), content[end:]
    first = next(name for name in entries if name != "__metadata__")
    found = {
        "nothing": b"",
        "seven bytes": b"1234567",
        "a length of 0": b"\0" * 8,
        "a length of all ones": b"\xff" * 64,
        "a length of 99 MB": struct.pack("<Q", 99_000_000) + b"{}",
        "text": b"this is no LoRA at all",
        "a pickle": places.pickled(),
        "a torch checkpoint": places.zipped(),
        "a GGUF": b"GGUF" + b"\0" * 100,
        "a picture": b"\x89PNG\r\n\x1a\n" + b"\0" * 100,
        "cut off": content[:-10],
        "cut off in its header": content[: end // 2],
        "bytes behind it": content + b"x" * 10,
        "no tensors": _packed({}, b""),
        "metadata alone": _packed({"__metadata__": {}}, b""),
    }
    for name, text in {
        "a list": b"[]",
        "a number": b"3",
        "a size of 400 digits": b'{"a": {"dtype": "U8", "shape": [%d], "data_offsets": [0, %d]}}' % (10**400, 10**400),
        "null": b"null",
        "no JSON": b"{",
        "no UTF-8": b'{"\xff": 3}',
        "lists 50,000 deep": b"[" * 50_000,
        "a name twice": b'{"a": 1, "a": 2}',
        "half a surrogate": b'{"\\ud800": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}',
    }.items():
        found[f"a header that is {name}"] = struct.pack("<Q", len(text)) + text + b"\0" * 4
    for key, odd in (
        *(("dtype", value) for value in (None, "F128", 3, [], "F8_E4M3", "BOOL", "I64", "F4")),
        *(("shape", value) for value in (None, [-1, 4], [2**40, 2**40], [1.5], ["a"], [], [True], [1] * 1000, [0])),
        *(
            ("data_offsets", value)
            for value in (None, [], [0], [-8, 8], [8, 0], [0, 2**60], ["a", "b"], [4, 8], [0, 0])
        ),
    ):
        found[f"{key} is {str(odd)[:30]}"] = _packed({**entries, first: {**entries[first], key: odd}}, data)
    for odd in (None, [], "a", {"a": 1}, {"format": None}, {"a": "x" * 1_000_000}):
        found[f"metadata is {str(odd)[:30]}"] = _packed({**entries, "__metadata__": odd}, data)
    found["a hundred thousand names"] = _packed(
        {f"a{number}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(100_000)}, b""
    )
    return found


def _tensors(whole: Path) -> dict[str, bytes]:
    """Whole files of other tensors."""
    tensors = load_file(whole)
    about = {LORA_ADAPTER_METADATA_KEY: _about(whole)}
    down = next(name for name in tensors if "lora_A" in name)
    up = down.replace("lora_A", "lora_B")
    inputs, outputs = tensors[down].shape[1], tensors[up].shape[0]

    def ranked(rank: int) -> Tensors:
        return {down: torch.zeros(rank, inputs), up: torch.zeros(outputs, rank)}

    changes: dict[str, Tensors] = {
        "not a number": {down: torch.full_like(tensors[down], float("nan"))},
        "infinite": {up: torch.full_like(tensors[up], float("inf"))},
        "beyond fp16": {up: torch.full_like(tensors[up], 1e38)},
        "rank 0": ranked(0),
        "rank 2,000": ranked(2000),
        "rank 5 in one layer": ranked(5),
        "of another width": {down: torch.zeros(RANK, inputs + 1)},
        "of three dimensions": {down: torch.zeros(RANK, inputs, 1)},
        "of five dimensions": {down: torch.zeros(RANK, inputs, 1, 1, 1)},
        "of no dimension": {down: torch.tensor(1.0)},
        "turned": {down: tensors[down].T.contiguous()},
        "whole numbers": {down: torch.ones(RANK, inputs, dtype=torch.int64)},
        "truth values": {down: torch.ones(RANK, inputs, dtype=torch.bool)},
        "of eight bits": {down: torch.ones(RANK, inputs).to(torch.float8_e4m3fn)},
        "with another layer": {"unet.no_such_layer.lora_A.weight": torch.zeros(RANK, 8)},
        "with a dunder": {"unet.__class__.lora_A.weight": torch.zeros(RANK, 8)},
        "with an endless name": {f"unet.{ENDLESS}.lora_A.weight": torch.zeros(RANK, 8)},
        "with a name of a million letters": {"a" * 1_000_000: torch.zeros(1)},
        "with a bias": {down.replace("weight", "bias"): torch.zeros(RANK)},
        "with DoRA": {down.replace("lora_A.weight", "lora_magnitude_vector"): torch.zeros(outputs)},
        "with LoHa": {"lora_unet_a.hada_w1_a": torch.zeros(4, 4)},
        "with a text encoder": {"text_encoder.a.lora_A.weight": torch.zeros(RANK, 8)},
    }
    found = {f"tensors {name}": save({**tensors, **change}, about) for name, change in changes.items()}
    found["a tensor too few"] = save({name: value for name, value in tensors.items() if name != down}, about)
    found["half of the tensors"] = save(dict(list(tensors.items())[::2]), about)
    found["without the prefix"] = save({name.partition(".")[2]: value for name, value in tensors.items()}, about)
    found["in halves"] = save({name: value.half() for name, value in tensors.items()}, about)
    found["in doubles"] = save({name: value.double() for name, value in tensors.items()}, about)
    return found


def _settings(whole: Path) -> dict[str, bytes]:
    """Whole tensors, and PEFT settings that ask for more."""
    tensors, settings = load_file(whole), json.loads(_about(whole))
    prefix = next(iter(settings)).rpartition(".")[0]
    odd: dict[str, tuple[Any, ...]] = {
        "r": (None, "4", 0, -1, 10**10, 10**400, float("nan"), float("inf"), [4], {}, True, 1.5),
        "lora_alpha": (None, "8", 0, -1, 1e30, 10**400, float("nan"), float("inf"), [8], True),
        "target_modules": (None, ENDLESS, "all-linear", [ENDLESS], [], [3], {"a": 1}, ["to_q"] * 100_000),
        "rank_pattern": (ENDLESS, {ENDLESS: 4}, {"to_q": -1}, {"to_q": 10**9}, [4]),
        "alpha_pattern": ({"(.*)*x": 4}, {"to_q": float("nan")}, {"to_q": "a"}),
        "megatron_config": ({"a": 1}, "os"),
        "megatron_core": ("os", 3),
        "auto_mapping": ({"base_model_class": "os", "parent_library": "os"},),
        "init_lora_weights": ("pissa", "eva", "loftq", "olora", "corda", 3),
        "loftq_config": ({"loftq_bits": 4},),
        "eva_config": ({"rho": 2},),
        "layer_replication": ([[0, 10**9]],),
        "layers_pattern": (ENDLESS, [ENDLESS]),
        "modules_to_save": (["conv_in"], ENDLESS),
        "exclude_modules": (ENDLESS,),
        "use_dora": (True, "yes"),
        "task_type": ("os", 3),
        "no_such_setting": (3, "a", {"a": 1}),
    }
    found: dict[str, bytes] = {}
    for name, values in odd.items():
        for value in values:
            text = json.dumps({**settings, f"{prefix}.{name}": value})
            found[f"setting {name} is {str(value)[:30]}"] = save(tensors, {LORA_ADAPTER_METADATA_KEY: text})
    for text in ("", "{", "[]", "null", "[" * 50_000, '"a"', "{}"):
        found[f"settings are {text[:10]!r}"] = save(tensors, {LORA_ADAPTER_METADATA_KEY: text})
    return found


def _about(whole: Path) -> str:
    content = whole.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return header["__metadata__"][LORA_ADAPTER_METADATA_KEY]


def _packed(entries: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data
