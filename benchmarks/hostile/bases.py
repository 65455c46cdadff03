"""Base models: the pocket model's folder with one thing wrong. Its weights are linked, all else is copied."""

import json
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from apt_engine.bases.registry import load_base
from apt_engine.settings.presets import POCKET_DIR
from benchmarks.hostile import places
from benchmarks.hostile.folders import TEXTS
from benchmarks.hostile.outcome import Outcome, judge

Wrong = Callable[[Path], object]
WEIGHTS = {
    "unet": "diffusion_pytorch_model.safetensors",
    "vae": "diffusion_pytorch_model.safetensors",
    "text_encoder": "model.safetensors",
}
FILES = ("model_index.json", "unet/config.json", "vae/config.json", "text_encoder/config.json")
OTHER_FILES = ("scheduler/scheduler_config.json", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json")
CODE: dict[str, Any] = {
    "auto_map": {"AutoModel": "evil.Evil"},
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "attn_implementation": "evil/kernels",
    "_attn_implementation": "evil/kernels",
    "_attn_implementation_internal": "evil/kernels",
    "trust_remote_code": True,
    "custom_pipeline": "evil",
    "use_kernels": True,
}
SHAPES: dict[str, dict[str, tuple[Any, ...]]] = {
    "unet": {
        "layers_per_block": (0, -1, 10**9, 10**400, "a", None, [1, 2], [10**6] * 3, 1.5, True),
        "block_out_channels": ([], [0, 0, 0], [-8] * 3, [10**9] * 3, [80] * 10_000, "abc", None, [80.5] * 3),
        "transformer_layers_per_block": (10**6, [10**6] * 3),
        "in_channels": (4, 0, -1, 10**12),
        "cross_attention_dim": (100, 0, 10**9, None),
        "attention_head_dim": (0, -1, [0, 0, 0], 7),
        "norm_num_groups": (0, 7, -1),
        "down_block_types": (["Evil"] * 3, ["os.system"] * 3, [], "abc", ["CrossAttnDownBlock2D"] * 200),
        "act_fn": ("os.system", None, 3),
        "sample_size": (10**9, -1, "a"),
        "_class_name": ("Evil", "os.system", ["evil", "Evil"]),
    },
    "vae": {
        "latent_channels": (4, 0, 10**9),
        "scaling_factor": (0, float("nan"), "a", None, 1e300),
        "block_out_channels": ([], [8], [10**9] * 3),
        "layers_per_block": (10**9, 0),
    },
    "text_encoder": {
        "num_hidden_layers": (0, 10**9, -1, 10**5),
        "hidden_size": (10**9, 100, 0),
        "vocab_size": (10, 10**12),
        "max_position_embeddings": (10**12, 1, 0),
        "num_attention_heads": (0, 7, 10**9),
        "hidden_act": ("os.system", "evil"),
        "model_type": ("evil", None),
    },
    "scheduler": {
        "num_train_timesteps": (0, -1, 10**12, "a", 1),
        "beta_schedule": ("evil",),
        "prediction_type": ("evil", "sample", None),
        "beta_start": (float("nan"), 10, "a"),
        "trained_betas": ([0.1] * 1_000_000, "a", [float("nan")] * 1000),
        "_class_name": ("Evil",),
    },
}


def bases(folder: Path) -> Iterator[Outcome]:
    """Each folder, loaded as the page and the command line do; one that is taken must answer with numbers."""
    for name, wrong in all_wrongs().items():
        model = folder / "model"
        copy(model)
        wrong(model)
        yield judge(name, lambda model=model: load_base(str(model), device="cpu"))
        if model.is_dir() and not model.is_symlink():
            shutil.rmtree(model)
        else:
            model.unlink(missing_ok=True)


def all_wrongs() -> dict[str, Wrong]:
    """Everything that is done to a folder."""
    return {**_indices(), **_configs(), **_tokenizers(), **_weights(), **_elsewhere()}


def copy(model: Path) -> None:
    """A whole folder."""
    for path in sorted(POCKET_DIR.rglob("*")):
        target = model / path.relative_to(POCKET_DIR)
        if path.suffix == ".safetensors":
            target.symlink_to(path)
        elif path.is_dir():
            target.mkdir(parents=True)
        elif path.suffix in (".json", ".txt"):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())


def _indices() -> dict[str, Wrong]:
    """What the index says of class and parts, with a module of that name in the folder and on the path."""
    found: dict[str, Wrong] = {"whole": lambda model: None}
    for odd in ("Evil", "DiffusionPipeline", "FluxPipeline", ["evil", "Evil"], None, 3, {}, "os.system"):
        found[f"its class is {odd}"] = _changed("model_index.json", "_class_name", odd)
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        for odd in (
            None,
            [None, None],
            "a",
            [],
            ["os", "system"],
            ["evil", "Evil"],
            ["diffusers", "Evil"],
            [3, 4],
            {"a": 1},
        ):
            found[f"its {part} is {odd}"] = _with_module(_changed("model_index.json", part, odd))
        found[f"its {part} is gone"] = lambda model, part=part: shutil.rmtree(model / part)
    for odd in (["evil", "Evil"], ["os", "system"], ["diffusers", "FluxPipeline"]):
        found[f"another part is {odd}"] = _with_module(_changed("model_index.json", "evil", odd))
        found[f"its safety checker is {odd}"] = _with_module(_changed("model_index.json", "safety_checker", odd))
    return found


def _configs() -> dict[str, Wrong]:
    found: dict[str, Wrong] = {}
    for file in (*FILES, *OTHER_FILES):
        for name, text in TEXTS.items():
            if name not in ("50 MB", "a newer setting", "another type", "null values"):
                found[f"{file} is {name}"] = lambda model, file=file, text=text: (model / file).write_bytes(text)
        for name, make in places.PLACES.items():
            found[f"{file} is {name}"] = _placed(file, make)
    for part in ("unet", "vae", "text_encoder", "scheduler", "tokenizer"):
        file = f"{part}/{ {'scheduler': 'scheduler_config', 'tokenizer': 'tokenizer_config'}.get(part, 'config') }.json"
        for key, value in CODE.items():
            found[f"{part} has {key}"] = _with_module(_changed(file, key, value))
        found[f"{part} has another key"] = _changed(file, "no_such_key", 3)
        for key, values in SHAPES.get(part, {}).items():
            for value in values:
                found[f"{part} has {key} {str(value)[:30]}"] = _changed(file, key, value)
    return found


def _tokenizers() -> dict[str, Wrong]:
    endless = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    return {
        "its tokenizer is of another class": _changed("tokenizer/tokenizer_config.json", "tokenizer_class", "Evil"),
        "its tokenizer has no end": _changed("tokenizer/tokenizer_config.json", "eos_token", None),
        "its tokenizer is endless": _changed("tokenizer/tokenizer.json", "pre_tokenizer", endless),
        "its tokenizer has another model": _changed("tokenizer/tokenizer.json", "model", {"type": "Evil"}),
        "its vocabulary is empty": _changed(
            "tokenizer/tokenizer.json", "model", {"type": "BPE", "vocab": {}, "merges": []}
        ),
        "its words have huge numbers": _changed(
            "tokenizer/tokenizer.json",
            "model",
            {"type": "BPE", "vocab": {"a": 2**31, "a</w>": 2**32 - 1}, "merges": []},
        ),
        "its longest prompt is -1": _changed("tokenizer/tokenizer_config.json", "model_max_length", -1),
        "its longest prompt is 10**30": _changed("tokenizer/tokenizer_config.json", "model_max_length", 10**30),
        "tokenizer/tokenizer.json is gone": lambda model: (model / "tokenizer/tokenizer.json").unlink(),
        "it has no vocabulary": lambda model: [
            (model / "tokenizer" / name).unlink() for name in ("tokenizer.json", "vocab.json")
        ],
    }


def _weights() -> dict[str, Wrong]:
    found: dict[str, Wrong] = {}
    for part, file in WEIGHTS.items():
        whole = POCKET_DIR / part / file
        path = f"{part}/{file}"
        found |= {f"the weights of {part} are {name}": _placed(path, make) for name, make in places.PLACES.items()}
        for name, content in {
            "empty": b"",
            "a pickle": places.pickled(),
            "a torch checkpoint": places.zipped(),
            "a long header": struct.pack("<Q", 10**9),
            "no tensors": save({"a": torch.zeros(1)}),
        }.items():
            found[f"the weights of {part} are {name}"] = _placed(
                path, lambda at, content=content: at.write_bytes(content)
            )
        for name, change in {
            "not a number": lambda value: value * float("nan"),
            "infinite": lambda value: value + float("inf"),
            "of another shape": lambda value: value[..., None].repeat(*(1,) * value.ndim, 2),
            "of whole numbers": lambda value: value.long(),
            "of eight bits": lambda value: value.to(torch.float8_e4m3fn),
        }.items():
            found[f"a weight of {part} is {name}"] = _placed(path, _rewritten(whole, change))
        found[f"a weight of {part} has another name"] = _placed(path, _rewritten(whole, None))
        found[f"the weights of {part} are cut off"] = _placed(
            path, lambda at, whole=whole: at.write_bytes(whole.read_bytes()[:-1000])
        )
        for name, pieces in {
            "a pickle": {"a": "evil.bin"},
            "a folder above": {"a": "../evil.safetensors"},
            "an absolute path": {"a": "/etc/passwd"},
            "a pickle called safetensors": {"a": "evil.safetensors"},
            "a file that is gone": {"a": "gone.safetensors"},
            "a number": {"a": 3},
            "nothing": {},
            "a list": ["a"],
            "itself": {"a": f"{file}.index.json"},
        }.items():
            found[f"the index of {part} names {name}"] = _indexed(path, pieces)
        found[f"{part} has an adapter"] = lambda model, part=part: (model / part / "adapter_config.json").write_text(
            json.dumps({"base_model_name_or_path": "evil/evil", "peft_type": "LORA"})
        )
        found[f"{part} has pickled weights alone"] = _placed(
            path, lambda at: at.with_name("pytorch_model.bin").write_bytes(places.zipped())
        )
    return found


def _elsewhere() -> dict[str, Wrong]:
    """What lies where the folder should."""

    def instead(make: Wrong) -> Wrong:
        return lambda model: (shutil.rmtree(model), make(model))

    found = {f"the model is {name}": instead(make) for name, make in places.PLACES.items() if name != "not there"}
    for name, content in {"a pickle": places.pickled(), "a checkpoint": places.zipped(), "text": b"hello"}.items():
        found[f"the model is {name}"] = instead(lambda model, content=content: model.write_bytes(content))
    return found


def _changed(file: str, key: str, value: Any) -> Wrong:
    def change(model: Path) -> None:
        content = json.loads((model / file).read_text())
        (model / file).write_text(json.dumps({**content, key: value}))

    return change


def _with_module(change: Wrong) -> Wrong:
    def make(model: Path) -> None:
        change(model)
        for folder in (model, *(path for path in model.iterdir() if path.is_dir())):
            (folder / "evil.py").write_text(places.python())
        (model / "evil").mkdir(exist_ok=True)
        (model / "evil" / "evil.py").write_text(places.python())

    return make


def _placed(file: str, make: Wrong) -> Wrong:
    def change(model: Path) -> None:
        (model / file).unlink()
        make(model / file)

    return change


def _rewritten(whole: Path, change: Callable[[torch.Tensor], torch.Tensor] | None) -> Wrong:
    """The same weights, the first large one changed, or called otherwise."""

    def write(path: Path) -> None:
        tensors = load_file(whole)
        name = next(name for name, value in tensors.items() if value.ndim > 1)
        value = tensors.pop(name)
        tensors["another"] = value
        if change:
            tensors[name] = change(tensors.pop("another")).contiguous()
        path.write_bytes(save(tensors))

    return write


def _indexed(path: str, pieces: Any) -> Wrong:
    def change(model: Path) -> None:
        weights = model / path
        weights.unlink()
        for name in ("evil.bin", "evil.safetensors", "../evil.safetensors"):
            (weights.parent / name).write_bytes(places.zipped())
        weights.with_name(f"{weights.name}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": pieces}))

    return change
