"""From the keys of LoRA files, in any layout that diffusers reads, to the model's own names of layers."""

import re

# What comes behind the name of a layer: PEFT's A and B, or down and up of two generations of diffusers.
ENDING = re.compile(
    r"(?:_lora|\.lora|\.lora_linear_layer)?\.(?:down|up)\.weight$|\.lora_(?:A|B|down|up)(?:\.\w+)?\.weight$"
)
_INNER = re.compile(r"\.processor|text_model\.")  # names that came and went with versions of diffusers and transformers


def layer_of(key: str) -> str:
    """The model's name of a layer, its part before it, from one of its keys or from that of its alpha.

    Text encoders call the projections of attention otherwise than the networks that draw.
    """
    stem = _INNER.sub("", ENDING.sub("", key.removesuffix(".alpha")))
    stem = re.sub(r"(_lora|\.lora)$", "", stem)
    stem = re.sub(r"\.to\.(q|k|v|out)\b", r".to_\1", stem)  # so in keys of alphas
    if ".self_attn." in stem:
        return re.sub(r"\.to_(q|k|v|out)(\.0)?$", r".\1_proj", stem)
    return re.sub(r"\.to_out$", ".to_out.0", stem)
