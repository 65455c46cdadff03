"""A model folder, looked at before any library opens it: nothing in it names code, and all weights are there and fit its configs.

Libraries take a config at its word: it may name modules to import, kernels to fetch, or other files to open as pickles; weights
that are not there are made up at random.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import nn

from apt_engine.bases import variants
from apt_engine.errors import BaseModelError
from apt_engine.reading.regular import is_regular, read_json
from apt_engine.reading.tensor_files import FLOATS, read_header

# Of each pipeline, its parts and the classes they may be of.
_TOKENIZER = ("CLIPTokenizer", "CLIPTokenizerFast")
_CHAT_TOKENIZER = ("Qwen2Tokenizer", "Qwen2TokenizerFast")
_STABLE_DIFFUSION = {
    "unet": ("UNet2DConditionModel",),
    "vae": ("AutoencoderKL",),
    "text_encoder": ("CLIPTextModel",),
    "tokenizer": _TOKENIZER,
    "scheduler": (),
}
PARTS: dict[str, dict[str, tuple[str, ...]]] = {
    "StableDiffusionPipeline": _STABLE_DIFFUSION,
    "StableDiffusionXLPipeline": {
        **_STABLE_DIFFUSION,
        "text_encoder_2": ("CLIPTextModelWithProjection",),
        "tokenizer_2": _TOKENIZER,
    },
    "Flux2KleinPipeline": {
        "transformer": ("Flux2Transformer2DModel",),
        "vae": ("AutoencoderKLFlux2",),
        "text_encoder": ("Qwen3ForCausalLM",),
        "tokenizer": _CHAT_TOKENIZER,
        "scheduler": (),
    },
    "ZImagePipeline": {
        "transformer": ("ZImageTransformer2DModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("Qwen3Model", "Qwen3ForCausalLM"),
        "tokenizer": _CHAT_TOKENIZER,
        "scheduler": (),
    },
}
LIBRARIES = {"unet": "diffusers", "transformer": "diffusers", "vae": "diffusers", "scheduler": "diffusers"}
NOT_LOADED = ("safety_checker", "feature_extractor", "image_encoder")
WEIGHTS = {"diffusers": "diffusion_pytorch_model.safetensors", "transformers": "model.safetensors"}
LARGEST_VOCABULARY, LARGEST_CONFIG = 50_000_000, 1_000_000  # bytes
_READ = (".json", ".txt", ".model", ".jinja", ".safetensors")
# Keys of configs by which libraries import, fetch or choose code; of attention, what is built in is no harm.
_CODE = re.compile(
    r"auto_map|remote_code|quantization_config|(attn|experts)_implementation|_attention_backend|use_kernels|hub_kernel"
    r"|kernel_config|custom_(pipeline|generate|object)|base_model_name_or_path|__\w+__"
)
_BUILT_IN = (None, False, "", "eager", "sdpa", "native")
LARGEST_NUMBER, LONGEST_LIST, LONGEST_TEXT = 10_000_000, 10_000, 20_000
# By patterns of keys. Of positions, a table of all lengths times all dimensions is computed, whatever the weights are.
LARGEST = ((r"(num|n)_.*layers$|num_blocks", 128), (r"^axes_dims", 1024), (r"^axes_lens", 100_000))
MOST_NESTED_LAYERS = 64  # layers of a block times blocks of a layer; SDXL has 20
MOST_LEVELS = 16
# Names that came and went with versions of the libraries, and what is computed anew.
_RENAMED = (
    (re.compile(r"^(text_model|model)\."), ""),
    (re.compile(r"\.attentions\.(\d+)\.query\."), r".attentions.\1.to_q."),
    (re.compile(r"\.attentions\.(\d+)\.key\."), r".attentions.\1.to_k."),
    (re.compile(r"\.attentions\.(\d+)\.value\."), r".attentions.\1.to_v."),
    (re.compile(r"\.attentions\.(\d+)\.proj_attn\."), r".attentions.\1.to_out.0."),
)
_COMPUTED = ("position_ids", "num_batches_tracked", "inv_freq")
_NESTED_REPEATS = re.compile(r"[+*}]\)+[+*{]")  # a regular expression that may never end
_FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


def inspect_folder(name: str, folder: Path, *, without: str = "") -> None:
    """Look at all that would be loaded of a folder in diffusers layout; one part may come from elsewhere.

    Raises:
        BaseModelError: something is missing, damaged, does not fit, or names code; says which file and what to do.
    """
    index = _read(name, folder / "model_index.json")
    parts = PARTS[str(index.get("_class_name"))]
    for part, value in index.items():
        _check_part(name, part, value, parts)
    for part, classes in parts.items():
        if part == without:
            continue
        listed = index.get(part)
        if not isinstance(listed, list) or listed[0] is None:
            raise BaseModelError(f"{name} has no {part} in its model_index.json; get the model again.")
        _check_files(name, folder / part)
        if part.startswith("tokenizer"):
            _check_tokenizer(name, folder / part)
        elif classes:
            _check_weights(name, folder / part, LIBRARIES.get(part, "transformers"), classes[0])
        else:
            _check_config(name, folder / part / "scheduler_config.json")


def _check_part(name: str, part: str, value: Any, parts: dict[str, tuple[str, ...]]) -> None:
    """What the index says of a part: its library and class must be those we know."""
    if not isinstance(value, list | dict) or value == [None, None]:
        return
    library, kind = value if isinstance(value, list) and len(value) == 2 else (None, None)
    if part in NOT_LOADED and re.fullmatch(r"\w+", str(library)) and re.fullmatch(r"\w+", str(kind)):
        return
    is_known = (
        part in parts
        and library == LIBRARIES.get(part, "transformers")
        and (kind in parts[part] or (part == "scheduler" and re.fullmatch(r"[A-Za-z0-9]+Scheduler", str(kind))))
    )
    if not is_known:
        raise BaseModelError(
            f"{name} asks for a {part:.40} of the kind {value!r:.80}, which this app does not run; choose another base model."
        )


def _check_files(name: str, folder: Path) -> None:
    """What a library might open on its own: no pipes, no code in a config, no other model behind an adapter."""
    if not folder.is_dir():
        raise BaseModelError(f"{name} has no folder {folder.name}; check that the folder is complete.")
    for path in sorted(folder.iterdir()):
        if path.suffix in _READ and not is_regular(path):
            raise BaseModelError(f"{path} is not a regular file; get the model again.")
        if path.name.startswith("adapter_"):
            raise BaseModelError(f"{path} would load another model; choose a base model without adapters.")
        is_long = path.name.startswith(("tokenizer.", "vocab.", "merges.")) or ".index." in path.name
        most = LARGEST_VOCABULARY if is_long else LARGEST_CONFIG
        if path.suffix in _READ and path.suffix != ".safetensors" and path.stat().st_size > most:
            raise BaseModelError(f"{path} is far too large for what it is; get the model again.")
        if path.suffix == ".json" and not is_long:
            _refuse_code(path, _read(name, path), is_config=False)


def _check_tokenizer(name: str, folder: Path) -> None:
    whole, pieces = folder / "tokenizer.json", (folder / "vocab.json", folder / "merges.txt")
    if not whole.exists() and not all(path.exists() for path in pieces):
        raise BaseModelError(f"{name} has no vocabulary in {folder.name}; check that the folder is complete.")
    for path in (whole, *pieces, folder / "special_tokens_map.json", folder / "added_tokens.json"):
        if path.exists() and path.suffix == ".json":
            _refuse_endless_patterns(path, _read(name, path, LARGEST_VOCABULARY))


def _refuse_endless_patterns(path: Path, content: Any) -> None:
    for steps in (content.get(part) for part in ("normalizer", "pre_tokenizer", "decoder", "post_processor")):
        if _NESTED_REPEATS.search(str(steps)):
            raise BaseModelError(f"{path} splits text by a pattern that may never end; choose another base model.")


def _check_config(name: str, path: Path) -> dict[str, Any]:
    config = _read(name, path)
    _refuse_code(path, config, is_config=True)
    nested = 1
    for key in ("layers_per_block", "transformer_layers_per_block"):
        nested *= max((number for number in _numbers(config.get(key))), default=1)
    if nested > MOST_NESTED_LAYERS:
        raise BaseModelError(f"{path} asks for {nested:,} layers a block; choose another base model.")
    levels = config.get("block_out_channels")
    if isinstance(levels, list) and len(levels) > MOST_LEVELS:
        raise BaseModelError(f"{path} asks for {len(levels):,} levels; choose another base model.")
    return config


def _refuse_code(path: Path, value: Any, *, is_config: bool, key: str = "") -> None:
    """Keys that name code; and in a config, numbers and lists that no model has."""
    if _CODE.search(key) and value not in _BUILT_IN:
        raise BaseModelError(f"{path} names code to run ({key}: {value!r:.80}); choose another base model.")
    if isinstance(value, dict):
        for inner, content in value.items():
            _refuse_code(path, content, is_config=is_config, key=str(inner))
        return
    items = value if isinstance(value, list) else [value]
    for item in items if is_config else ():
        most = next((most for pattern, most in LARGEST if re.search(pattern, key)), LARGEST_NUMBER)
        if isinstance(item, int | float) and not -LARGEST_NUMBER <= item <= most:
            raise BaseModelError(f"{path} has the impossible value {key}: {item!r:.40}; get the model again.")
        if isinstance(item, list | dict):
            _refuse_code(path, item, is_config=is_config, key=key)
    if is_config and len(value if isinstance(value, list) else str(value)) > max(LONGEST_LIST, LONGEST_TEXT):
        raise BaseModelError(f"{path} has the impossible value {key}: {value!r:.40}; get the model again.")


def _check_weights(name: str, folder: Path, library: str, kind: str) -> None:
    """Every weight that the class has with this config is in the files, in the same shape."""
    config = _check_config(name, folder / "config.json")
    wanted = _shapes(name, folder, library, kind, config)
    sources = list(_sources(name, folder, WEIGHTS[library]))
    if not sources:
        variants.variant_of(folder.parent, folder.name)  # says it if they are pickled
        raise BaseModelError(
            f"{name} has no weights for its {folder.name} ({WEIGHTS[library]}); check that the folder is complete."
        )
    for files in sources:
        found = _found(name, files)
        for key, shape in wanted.items():
            if key not in found:
                raise BaseModelError(f"{name} lacks the weight {key} of its {folder.name}; get the model again.")
            if found[key] != shape:
                raise BaseModelError(
                    f"{name} does not fit together: {key} of its {folder.name} is {found[key]}, and its config says {shape}; "
                    "get the model again."
                )


def _shapes(name: str, folder: Path, library: str, kind: str, config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """What the class holds, built without memory for its weights."""
    try:
        with torch.device("meta"):
            model = _built(library, kind, config)
    except _FAILURES as error:
        reason = " ".join(str(error).split())[:200]
        raise BaseModelError(
            f"The config of {folder.name} of {name} makes no {kind} ({type(error).__name__}: {reason}); get the model again."
        ) from error
    tied = getattr(model, "_tied_weights_keys", None) or ()
    state = {key: value for key, value in model.state_dict().items() if not key.endswith(_COMPUTED)}
    return {_current(key): tuple(value.shape) for key, value in state.items() if key not in tied}


def _built(library: str, kind: str, config: dict[str, Any]) -> nn.Module:
    if library == "diffusers":
        return getattr(diffusers, kind).from_config(config)
    cls = getattr(transformers, kind)
    return cls(cls.config_class.from_dict(config))


def _sources(name: str, folder: Path, file: str) -> Iterator[list[Path]]:
    """The files of each way in which the weights lie there: whole, or in pieces that an index names."""
    stem = file.partition(".")[0]
    for path in sorted(folder.glob(f"{stem}*.safetensors")):  # of a variant too, such as fp16
        if not re.search(r"-\d+-of-\d+", path.name):
            yield [path]
    for index in sorted(folder.glob(f"{stem}*.index*.json")):
        pieces = _read(name, index, LARGEST_VOCABULARY).get("weight_map")
        names = set(pieces.values()) if isinstance(pieces, dict) and all(map(_is_piece, pieces.values())) else set()
        if not names:
            raise BaseModelError(f"{index} names files that are not safetensors files beside it; get the model again.")
        yield [folder / piece for piece in sorted(names)]


def _is_piece(name: Any) -> bool:
    return isinstance(name, str) and bool(re.fullmatch(r"\w[\w.\-]*\.safetensors", name, re.ASCII))


def _found(name: str, files: list[Path]) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for path in files:
        try:
            header, _ = read_header(path)
        except OSError as error:
            raise BaseModelError(f"{path} cannot be read ({error.strerror or error}); get the model again.") from error
        except ValueError as error:
            raise BaseModelError(f"{path} is damaged: {error}; get the model again.") from error
        odd = next(
            (key for key, tensor in header.items() if tensor.dtype not in FLOATS and not key.endswith(_COMPUTED)), None
        )
        if odd:
            raise BaseModelError(f"{name} holds {odd:.80} in {header[odd].dtype}; get it in fp16, bf16 or fp32.")
        found |= {_current(key): tensor.shape for key, tensor in header.items()}
    return found


def _current(key: str) -> str:
    for old, new in _RENAMED:
        key = old.sub(new, key)
    return key


def _numbers(value: Any) -> Iterator[int]:
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, list):
            yield from _numbers(item)
        elif type(item) is int:
            yield item


def _read(name: str, path: Path, most: int = LARGEST_CONFIG) -> dict[str, Any]:
    try:
        content = read_json(path, most)
    except FileNotFoundError:
        raise BaseModelError(
            f"{name} has no {path.parent.name}/{path.name}; check that the folder is complete."
        ) from None
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:120]
        raise BaseModelError(f"{path} cannot be read ({reason}); get the model again.") from error
    if not isinstance(content, dict):
        raise BaseModelError(f"{path} is not a table of settings; get the model again.")
    return content
