"""What training a U-Net takes of a device's memory, told from the model's configs before anything is loaded. Imports no torch.

Of each position (sample x height x width) a step keeps for its backward pass

    residual block    the inputs of both norms and of what follows them
    attention block   the inputs of its norms, what each trained projection was given, queries, keys, values, what attention
                      put out, and the four times wider insides of the feed-forward layer

In half precision norms work in fp32, projections in 2 bytes, and each LoRA is given a copy of its own. `benchmarks.memory`
holds all this against what torch really keeps.
"""

import itertools
from dataclasses import dataclass
from typing import Any

from apt_engine.bases.precision import BITS, BLOCKS

FP32, HALF = 4, 2  # bytes
TOKENS = 77  # of a prompt
Config = dict[str, Any]  # of a part, as diffusers and transformers write them


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a U-Net is trained.

    Attributes:
        height, width: of the latents.
        batch: samples at once.
        rank: of the LoRA on all attention.
        feed_forward, convolutions: whether these have one too.
        is_half: whether the U-Net computes in half precision.
        is_plain: whether attention forms whole maps instead of going through them piece by piece.
        is_checkpointed: whether backward computes the insides of each block again.
        precision: how the weights of attention blocks are kept: full, 8bit or 4bit.
    """

    height: int
    width: int
    batch: int = 1
    rank: int = 16
    feed_forward: bool = False
    convolutions: bool = False
    is_half: bool = True
    is_plain: bool = False
    is_checkpointed: bool = False
    precision: str = "full"

    @property
    def bytes(self) -> int:
        """Of a number that the U-Net computes with."""
        return HALF if self.is_half else FP32

    def positions(self, shrink: int) -> int:
        """Of one sample, where height and width are 1 / `shrink` of the latents'."""
        return -(-self.height // shrink) * -(-self.width // shrink)


@dataclass(frozen=True)
class Residual:
    """A residual block at 1 / `shrink` of the latents' height and width."""

    shrink: int
    inputs: int
    outputs: int

    def weights(self, time: int) -> int:
        """Numbers in it; `time` is the width of what it is told of the noise level, 0 for nothing."""
        convolutions = 9 * self.outputs * (self.inputs + self.outputs) + 2 * self.outputs
        shortcut = (self.inputs + 1) * self.outputs if self.inputs != self.outputs else 0
        return convolutions + shortcut + (time + 1) * self.outputs * bool(time) + 2 * (self.inputs + self.outputs)

    def lora(self, training: Training) -> int:
        """Numbers of its LoRA."""
        return training.convolutions * training.rank * (9 * self.inputs + 11 * self.outputs)

    def kept(self, training: Training) -> int:
        """Bytes that backward needs of a sample."""
        size, both = training.bytes, self.inputs + self.outputs
        numbers = (2 * FP32 + size) * both  # torch keeps what a convolution was given though its weights are frozen
        if training.is_half and self.inputs != self.outputs:
            numbers += size * self.inputs  # given to the shortcut; in fp32 that is what the norm was given
        if training.convolutions:
            numbers += size * (both * training.is_half + 2 * training.rank)
        return training.positions(self.shrink) * numbers

    def entrance(self, training: Training) -> int:
        """Bytes of what it can be computed again from."""
        return training.positions(self.shrink) * self.inputs * training.bytes

    def piece(self, training: Training) -> int:
        """Bytes of what is computed again at once, and of a gradient on its way back through it."""
        return self.kept(training) + training.positions(self.shrink) * self.inputs * FP32


@dataclass(frozen=True)
class Transformer:
    """`depth` attention blocks, each over the picture and over the words, at 1 / `shrink` of the latents' height and width."""

    shrink: int
    channels: int
    depth: int
    heads: int
    words: int  # width of a token's state
    is_linear: bool  # whether it begins and ends with linear layers, not with convolutions

    def weights(self, _time: int) -> int:
        """Numbers in it."""
        c = self.channels
        block = 18 * c * c + 2 * c * self.words + 17 * c  # attentions, feed-forward, norms
        return 2 * c * c + 4 * c + self.depth * block

    @property
    def packed(self) -> int:
        """How many of them are in linear layers, and so may be packed."""
        c = self.channels
        return 2 * c * c * self.is_linear + self.depth * (18 * c * c + 2 * c * self.words)

    def lora(self, training: Training) -> int:
        """Numbers of its LoRA."""
        c = self.channels
        return self.depth * training.rank * (14 * c + 2 * self.words + 14 * c * training.feed_forward)

    def kept(self, training: Training) -> int:
        """Bytes that backward needs of a sample."""
        return self._ends(training) + self.depth * self._block(training)

    def entrance(self, training: Training) -> int:
        """Bytes of what its blocks can be computed again from."""
        return self._ends(training) + training.positions(self.shrink) * self.channels * self.depth * training.bytes

    def piece(self, training: Training) -> int:
        """Bytes of the block that is computed again at once, and of a gradient on its way back through it."""
        return self._block(training) + training.positions(self.shrink) * self.channels * 8 * training.bytes

    def _block(self, training: Training) -> int:
        """Bytes that backward needs of one block."""
        c, size, positions = self.channels, training.bytes, training.positions(self.shrink)
        given = 6 * size if training.is_half else 2 * FP32  # in fp32 a norm's output is shared by those it is given to
        numbers = c * (3 * FP32 + given + (6 + 12) * size) + 6 * training.rank * size
        if training.feed_forward:
            numbers += 5 * c * size + 2 * training.rank * size
        maps = self.heads * (size + FP32 * training.is_half) * (positions + TOKENS)
        words = TOKENS * size * 2 * (c + self.words * training.is_half)
        return positions * (numbers + (maps if training.is_plain else 2 * FP32 * self.heads)) + words

    def _ends(self, training: Training) -> int:
        """Bytes that backward needs of what comes before and after the blocks."""
        numbers = FP32 + 2 * training.bytes * (not self.is_linear)
        return training.positions(self.shrink) * self.channels * numbers


@dataclass(frozen=True)
class Resize:
    """A convolution that halves or doubles height and width; what it is given is 1 / `shrink` of the latents'."""

    shrink: int
    channels: int

    def weights(self, _time: int) -> int:
        """Numbers in it."""
        return 9 * self.channels * self.channels + self.channels

    def lora(self, _training: Training) -> int:
        """It has none."""
        return 0

    def kept(self, training: Training) -> int:
        """Bytes that backward needs of a sample."""
        return training.positions(self.shrink) * self.channels * training.bytes

    entrance = kept

    def piece(self, _training: Training) -> int:
        """It is not computed again."""
        return 0


Block = Residual | Transformer | Resize


def blocks_of(unet: Config) -> list[Block]:
    """The blocks of a U-Net in the order they run."""
    channels: list[int] = list(unet["block_out_channels"])
    layers: int = unet["layers_per_block"]
    last = len(channels) - 1
    depths = _each(unet.get("transformer_layers_per_block", 1), len(channels))
    heads = _each(unet.get("num_attention_heads") or unet["attention_head_dim"], len(channels))

    def attention(level: int) -> Transformer:
        words, is_linear = unet["cross_attention_dim"], bool(unet.get("use_linear_projection"))
        return Transformer(2**level, channels[level], depths[level], heads[level], words, is_linear)

    blocks: list[Block] = []
    for level, kind in enumerate(unet["down_block_types"]):
        for layer in range(layers):
            blocks.append(Residual(2**level, channels[max(level - 1, 0) if layer == 0 else level], channels[level]))
            blocks += [attention(level)] if "CrossAttn" in kind else []
        blocks += [Resize(2**level, channels[level])] if level < last else []
    middle = Residual(2**last, channels[last], channels[last])
    blocks += [middle, attention(last), middle]
    for level, kind in zip(reversed(range(last + 1)), unet["up_block_types"], strict=True):
        for layer in range(layers + 1):
            below = channels[min(level + 1, last) if layer == 0 else level]
            skipped = channels[max(level - 1, 0) if layer == layers else level]
            blocks.append(Residual(2**level, below + skipped, channels[level]))
            blocks += [attention(level)] if "CrossAttn" in kind else []
        blocks += [Resize(2 ** (level - 1), channels[level])] if level else []
    return blocks


def weight_numbers(unet: Config) -> int:
    """Of weights in a U-Net."""
    first: int = unet["block_out_channels"][0]
    time = 4 * first
    told = (first + time + 2) * time
    if unet.get("addition_embed_type"):
        told += (unet["projection_class_embeddings_input_dim"] + time + 2) * time
    ends = 9 * first * (unet["in_channels"] + unet["out_channels"]) + 3 * first + unet["out_channels"]
    return told + ends + sum(block.weights(time) for block in blocks_of(unet))


def text_numbers(encoder: Config) -> int:
    """Of weights in a CLIP text encoder."""
    c, inside = encoder["hidden_size"], encoder["intermediate_size"]
    layer = 4 * c * (c + 1) + (2 * c + 1) * inside + 5 * c
    words = (encoder["vocab_size"] + encoder["max_position_embeddings"]) * c
    is_projected = "CLIPTextModelWithProjection" in encoder.get("architectures", ())
    return words + encoder["num_hidden_layers"] * layer + 2 * c + is_projected * c * encoder["projection_dim"]


def lora_numbers(unet: Config, training: Training) -> int:
    """Numbers of a LoRA."""
    return sum(block.lora(training) for block in blocks_of(unet))


def resident_bytes(unet: Config, training: Training) -> int:
    """What is there all through a training: the frozen weights, and in fp32 the LoRA with AdamW's two moments."""
    return weight_bytes(unet, training) + 3 * FP32 * lora_numbers(unet, training)


def weight_bytes(unet: Config, training: Training) -> int:
    """Of a U-Net's frozen weights as they are kept."""
    packed = sum(block.packed for block in blocks_of(unet) if isinstance(block, Transformer))
    return bytes_of_weights(weight_numbers(unet), packed, training)


def bytes_of_weights(count: int, packable: int, training: Training) -> int:
    """Of so many weights, of which some are packed where that is wished."""
    if training.precision == "full":
        return training.bytes * count
    bits, block = BITS[training.precision], BLOCKS[training.precision]
    return training.bytes * (count - packable) + packable * bits // 8 + packable * FP32 // block


def step_bytes(unet: Config, training: Training) -> int:
    """What a step takes at its most beside the weights, the LoRA and AdamW's moments: on the way back through the network."""
    blocks = blocks_of(unet)
    if not training.is_checkpointed:
        # Before it none needs a gradient.
        first = next(place for place, block in enumerate(blocks) if block.lora(training))
        ending = training.positions(1) * unet["block_out_channels"][0] * (2 * FP32 + training.bytes)
        kept = ending + sum(block.kept(training) for block in blocks[first:])
        lora = lora_numbers(unet, training) * (FP32 + HALF * training.is_half)
        return training.batch * kept + lora + _made_whole(blocks, training)
    # A block that is computed again stands beside the entrances of those before it and the gradients of those behind it.
    before = list(itertools.accumulate(block.entrance(training) for block in blocks))
    behind = list(itertools.accumulate(FP32 * block.lora(training) for block in reversed(blocks)))[::-1]
    return _made_whole(blocks, training) + max(
        training.batch * (entrances + block.piece(training)) + gradients
        for entrances, block, gradients in zip(before, blocks, behind, strict=True)
    )


def _made_whole(blocks: list[Block], training: Training) -> int:
    """Bytes of the largest packed weight, a feed-forward layer's, when its layer computes."""
    widest = max((block.channels for block in blocks if isinstance(block, Transformer)), default=0)
    return 8 * widest * widest * training.bytes * (training.precision != "full")


def _each(value: int | list[int] | tuple[int, ...], count: int) -> list[int]:
    """One number for each level, as a config says it."""
    return [value] * count if isinstance(value, int) else list(value)
