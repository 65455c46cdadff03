"""What training a flow transformer takes of a device's memory, told from its config as `footprint` tells a U-Net's. No torch.

Of each token a block keeps for its backward pass what its norms were given, in fp32 and as it came, what each LoRA was given in
half precision, queries and keys before their norms and after them, values, what attention put out, and of the feed-forward layer,
three times (klein) or 8 / 3 times (Z-Image) as wide as the stream, both halves and what the first becomes. Words have a stream
too.
"""

from dataclasses import dataclass

from apt_engine.bases.footprint import FP32, Config, Training, bytes_of_weights

PATCH = 2  # latent cells a side of one token
KLEIN_WORDS = 512  # tokens of every prompt, padding included
Z_IMAGE_WORDS = 32  # of a short caption, filled up
FREQUENCIES = 256  # numbers that tell klein the noise level before they are embedded
TOLD = 256  # width of what Z-Image is told of it, at the most
TIME_WIDTH = 1024  # of Z-Image's embedding


@dataclass(frozen=True)
class Block:
    """One block over `tokens` tokens, or one over two streams.

    Attributes:
        weights: numbers in it.
        packable: how many of them are in linear layers that may be packed.
        largest: numbers of the largest such layer, which is made whole when it computes.
        streams: into how many the tokens are parted, each with weights of its own.
        tokens: of the sequence that attends.
        trained: tokens that go through layers with a LoRA.
        kept: numbers that backward needs of each token: in fp32, and in the format of the model.
        given: numbers in that format that its LoRAs keep of each trained token.
        lora: numbers of its LoRA at rank 1.
        width: of the stream.
        widest: of the projection with the most outputs, whose gradient is there at once.
        ranked: LoRAs in it, each of which keeps rank numbers a trained token.
        heads: of its attention, a number each in fp32 a token.
    """

    weights: int
    packable: int
    largest: int
    streams: int
    tokens: int
    trained: int
    kept: tuple[float, float]
    given: float
    lora: int
    width: int
    widest: int
    ranked: int
    heads: int

    def bytes_kept(self, training: Training) -> int:
        """Of one sample."""
        wide, own = self.kept
        numbers = FP32 * (wide + self.heads) + training.bytes * own
        lora = training.bytes * (self.given + self.ranked * training.rank)
        return int(self.tokens * numbers + self.trained * lora)

    def flops(self, passes: int) -> float:
        """Of matrix products for one sample: forward so many times, and back, where weights get no gradient.

        Fused attention forms its map anew on the way back, five products where forward has two.
        """
        linear = 2 * self.packable * self.tokens / self.streams
        return (passes + 1) * linear + (passes + 2.5) * 4 * self.tokens**2 * self.width

    def entrance(self, training: Training) -> int:
        """Bytes of what it can be computed again from."""
        return self.tokens * self.width * training.bytes

    def gradient(self, training: Training) -> int:
        """Bytes of a gradient on its way back through it."""
        return self.tokens * (self.widest * training.bytes + 4 * self.width * FP32)


def is_flow(config: Config) -> bool:
    """Whether a config is that of a transformer told of here."""
    return config.get("_class_name") in ("Flux2Transformer2DModel", "ZImageTransformer2DModel")


def blocks_of(config: Config, training: Training) -> list[Block]:
    """The blocks in the order they run."""
    picture = -(-training.height // PATCH) * -(-training.width // PATCH)
    if config["_class_name"] == "Flux2Transformer2DModel":
        return _klein_blocks(config, picture, training)
    return _z_image_blocks(config, picture, training)


def weight_numbers(config: Config) -> int:
    """Of weights in a transformer."""
    inside = sum(block.weights for block in blocks_of(config, Training(height=PATCH, width=PATCH)))
    if config["_class_name"] == "Flux2Transformer2DModel":
        c = _klein_width(config)
        ends = config["in_channels"] + (config.get("out_channels") or config["in_channels"])
        told = config.get("timestep_guidance_channels", FREQUENCIES) + c
        told += told * bool(config.get("guidance_embeds", True))
        return inside + c * (ends + config["joint_attention_dim"] + told + 17 * c)  # 17: modulations, last norm
    c, words = config["dim"], config["cap_feat_dim"]
    cell = PATCH**2 * config["in_channels"]
    told = min(c, TOLD)
    time = TIME_WIDTH * (FREQUENCIES + 1) + (TIME_WIDTH + 1) * told
    ends = (cell + 1) * c + (c + 1) * cell + (told + 1) * c
    return inside + time + words + (words + 1) * c + ends + 2 * c


def lora_numbers(config: Config, training: Training) -> int:
    """Numbers of a LoRA."""
    return training.rank * sum(block.lora for block in blocks_of(config, training))


def resident_bytes(config: Config, training: Training) -> int:
    """What is there all through a training: the frozen weights, and in fp32 the LoRA with AdamW's two moments."""
    packable = sum(block.packable for block in blocks_of(config, training))
    weights = bytes_of_weights(weight_numbers(config), packable, training)
    return weights + 3 * FP32 * lora_numbers(config, training)


def step_bytes(config: Config, training: Training) -> int:
    """What a step takes at its most beside the weights, the LoRA and AdamW's moments: on the way back through the network."""
    blocks = blocks_of(config, training)
    gradients = FP32 * lora_numbers(config, training)
    made_whole = max(block.largest for block in blocks) * training.bytes * (training.precision != "full")
    if not training.is_checkpointed:
        kept = sum(block.bytes_kept(training) for block in blocks) + blocks[-1].gradient(training)
        return training.batch * kept + gradients // 2 + made_whole
    entrances = sum(block.entrance(training) for block in blocks)
    piece = max(block.bytes_kept(training) + block.gradient(training) for block in blocks)
    return training.batch * (entrances + piece) + gradients // 2 + made_whole


def step_flops(config: Config, training: Training, *, has_reference: bool) -> float:
    """Of matrix products in a step, those of LoRA, RS and AA left out, which are a few in a hundred."""
    passes = 1 + has_reference + training.is_checkpointed
    return training.batch * sum(block.flops(passes) for block in blocks_of(config, training))


def text_numbers(encoder: Config) -> int:
    """Of weights in a chat model of Qwen3's kind."""
    c, inside, head = encoder["hidden_size"], encoder["intermediate_size"], encoder["head_dim"]
    queries, keys = encoder["num_attention_heads"] * head, encoder["num_key_value_heads"] * head
    layer = 2 * c * queries + 2 * c * keys + 3 * c * inside + 2 * c + 2 * head
    words = encoder["vocab_size"] * c * (1 if encoder.get("tie_word_embeddings") else 2)
    return words + encoder["num_hidden_layers"] * layer + c


def _klein_width(config: Config) -> int:
    return config["num_attention_heads"] * config["attention_head_dim"]


def _klein_blocks(config: Config, picture: int, training: Training) -> list[Block]:
    c, head, heads = _klein_width(config), config["attention_head_dim"], config["num_attention_heads"]
    ratio = config.get("mlp_ratio", 3.0)
    inside = int(c * ratio)
    tokens = picture + KLEIN_WORDS
    feed = training.feed_forward
    double = Block(
        weights=8 * c * c + 6 * c * inside + 4 * head,
        packable=8 * c * c + 6 * c * inside,
        largest=2 * c * inside,
        streams=2,
        tokens=tokens,
        trained=picture,
        kept=(4 * c, 6 * c + 3 * inside),
        given=3 * c + feed * (c + inside),
        lora=8 * c + feed * (2 * c + 3 * inside),
        width=c,
        widest=2 * inside,
        ranked=4 + 2 * feed,
        heads=heads,
    )
    single = Block(
        weights=c * (3 * c + 2 * inside) + (c + inside) * c + 2 * head,
        packable=c * (3 * c + 2 * inside) + (c + inside) * c,
        largest=c * (3 * c + 2 * inside),
        streams=1,
        tokens=tokens,
        trained=tokens,
        kept=(3 * c, 6 * c + 3 * inside),
        given=2 * c + inside,
        lora=(4 * c + 2 * inside) + (2 * c + inside),
        width=c,
        widest=3 * c + 2 * inside,
        ranked=2,
        heads=heads,
    )
    return [double] * config["num_layers"] + [single] * config["num_single_layers"]


def _z_image_blocks(config: Config, picture: int, training: Training) -> list[Block]:
    c, heads = config["dim"], config["n_heads"]
    inside, head = int(c / 3 * 8), c // heads
    feed = training.feed_forward

    def block(tokens: int, told: int) -> Block:
        return Block(
            weights=4 * c * c + 3 * c * inside + 4 * c + 2 * head + 4 * c * (told + 1) * bool(told),
            packable=4 * c * c + 3 * c * inside,
            largest=c * inside,
            streams=1,
            tokens=tokens,
            trained=tokens,
            kept=(6 * c, 10 * c + 3 * inside),
            given=3 * c + feed * (2 * c + inside),
            lora=8 * c + feed * 3 * (c + inside),
            width=c,
            widest=2 * inside,
            ranked=4 + 3 * feed,
            heads=heads,
        )

    filled = -(-picture // Z_IMAGE_WORDS) * Z_IMAGE_WORDS
    told = min(c, TOLD)
    refiners = config["n_refiner_layers"]
    return [
        *[block(filled, told)] * refiners,
        *[block(Z_IMAGE_WORDS, 0)] * refiners,
        *[block(filled + Z_IMAGE_WORDS, told)] * config["n_layers"],
    ]
