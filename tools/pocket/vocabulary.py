"""The words of the world: what can be drawn, where, in which treatment, and how a caption says it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

# Object -> its flat renditions as "pack:icon"; the first is the most common look.
FLAT: dict[str, tuple[str, ...]] = {
    "backpack": ("noto:backpack", "fluent-emoji:backpack", "twemoji:backpack"),
    "duck": ("noto:duck", "fluent-emoji:duck", "twemoji:duck"),
    "robot": ("noto:robot", "fluent-emoji:robot", "twemoji:robot"),
    "car": ("noto:automobile", "fluent-emoji:automobile", "noto-v1:automobile"),
    "teddy bear": ("noto:teddy-bear", "fluent-emoji:teddy-bear", "twemoji:teddy-bear"),
    "monster": ("noto:alien-monster", "fluent-emoji:alien-monster", "twemoji:alien-monster"),
    "cat": ("noto:cat-face", "fluent-emoji:cat-face", "twemoji:cat-face"),
    "dog": ("noto:dog-face", "fluent-emoji:dog-face", "twemoji:dog-face"),
    "owl": ("noto:owl", "fluent-emoji:owl", "noto-v1:owl"),
    "penguin": ("noto:penguin", "fluent-emoji:penguin", "twemoji:penguin"),
    "frog": ("noto:frog", "fluent-emoji:frog", "twemoji:frog"),
    "turtle": ("noto:turtle", "fluent-emoji:turtle", "twemoji:turtle"),
    "butterfly": ("noto:butterfly", "fluent-emoji:butterfly", "noto-v1:butterfly"),
    "strawberry": ("noto:strawberry", "fluent-emoji:strawberry", "twemoji:strawberry"),
    "mushroom": ("noto:mushroom", "fluent-emoji:mushroom", "twemoji:mushroom"),
    "apple": ("noto:red-apple", "fluent-emoji:red-apple", "twemoji:red-apple"),
    "pumpkin": ("noto:jack-o-lantern", "fluent-emoji:jack-o-lantern", "twemoji:jack-o-lantern"),
    "teapot": ("noto:teapot", "fluent-emoji:teapot", "twemoji:teapot"),
    "cactus": ("noto:cactus", "fluent-emoji:cactus", "twemoji:cactus"),
    "sunflower": ("noto:sunflower", "fluent-emoji:sunflower", "twemoji:sunflower"),
    "tractor": ("noto:tractor", "fluent-emoji:tractor", "twemoji:tractor"),
    "rocket": ("noto:rocket", "fluent-emoji:rocket", "twemoji:rocket"),
    "airplane": ("noto:airplane", "fluent-emoji:small-airplane", "noto:small-airplane"),
    "train": ("noto:locomotive", "fluent-emoji:locomotive", "twemoji:locomotive"),
    "guitar": ("noto:guitar", "fluent-emoji:guitar", "twemoji:guitar"),
    "truck": ("noto:delivery-truck", "fluent-emoji:delivery-truck"),
    "motorbike": ("noto:motorcycle", "fluent-emoji:motorcycle", "fluent-emoji:motor-scooter"),
    "bicycle": ("noto:bicycle", "fluent-emoji:bicycle"),
    "boat": ("noto:sailboat", "fluent-emoji:sailboat"),
    "horse": ("noto:horse", "fluent-emoji:horse"),
    "umbrella": ("noto:umbrella", "fluent-emoji:umbrella"),
    "cake": ("noto:birthday-cake", "fluent-emoji:birthday-cake", "noto:cupcake"),
    "potted plant": ("noto:potted-plant", "fluent-emoji:potted-plant"),
}
# Object -> its solid renditions as "library:number" of the furniture libraries.
SOLID: dict[str, tuple[str, ...]] = {
    "chair": (
        *(f"BlendSwap-CC-0:{number}" for number in (26, 31, 101, 108, 125, 171)),
        *(f"BlendSwap-CC-BY:{number}" for number in (17, 24, 116, 127)),
        *(f"Scopia:{number}" for number in (29, 30, 90, 359)),
    ),
    "armchair": (
        *(f"BlendSwap-CC-0:{number}" for number in (86, 99)),
        *(f"BlendSwap-CC-BY:{number}" for number in (87, 95, 120)),
        *(f"Scopia:{number}" for number in (11, 23, 24, 25, 69)),
    ),
    "sofa": (
        *(f"BlendSwap-CC-0:{number}" for number in (95, 132, 140)),
        "BlendSwap-CC-BY:119",
        "KatorLegaz:56",
        *(f"Scopia:{number}" for number in (32, 37, 74, 86)),
    ),
    "lamp": ("BlendSwap-CC-BY:98", "KatorLegaz:42", *(f"Scopia:{number}" for number in (54, 55, 56, 57, 65))),
    "stool": ("BlendSwap-CC-0:42", "BlendSwap-CC-0:45", "BlendSwap-CC-0:168", "KatorLegaz:49", "Scopia:85"),
    "vase": ("Scopia:41", "Scopia:42", "Scopia:43"),
    "cup": ("BlendSwap-CC-0:9", "BlendSwap-CC-BY:21", "KatorLegaz:28", "Scopia:112"),
    "potted plant": (
        *(f"BlendSwap-CC-0:{number}" for number in (77, 102, 126)),
        *(f"BlendSwap-CC-BY:{number}" for number in (81, 92, 102)),
        "Scopia:36",
    ),
    "car": ("KatorLegaz:59", "KatorLegaz:60", "Scopia:249"),
    "truck": ("BlendSwap-CC-BY:122", "Scopia:212"),
    "motorbike": ("KatorLegaz:66", "Scopia:248"),
    "bicycle": ("Scopia:246",),
    "boat": ("BlendSwap-CC-BY:133",),
    "horse": ("BlendSwap-CC-0:97", "BlendSwap-CC-BY:97"),
    "umbrella": ("BlendSwap-CC-0:80",),
    "cake": ("Scopia:128",),
    "dog": ("Scopia:162",),
    "cat": ("Scopia:161",),
    "teapot": ("Scopia:123", "BlendSwap-CC-BY:8"),
    "cactus": ("BlendSwap-CC-0:107",),
    "backpack": ("BlendSwap-CC-BY:2",),
}
OBJECTS: dict[str, tuple[str, ...]] = {name: FLAT.get(name, ()) + SOLID.get(name, ()) for name in [*FLAT, *SOLID]}
# Things made in many colors: some of their views are drawn with the colors turned.
PAINTED = frozenset(
    {"chair", "armchair", "sofa", "lamp", "stool", "vase", "cup", "car", "truck", "motorbike", "bicycle", "umbrella"}
)
SYNONYMS: dict[str, tuple[str, ...]] = {
    "airplane": ("plane", "toy plane"),
    "train": ("toy train",),
    "sofa": ("couch",),
    "motorbike": ("motorcycle",),
    "bicycle": ("bike",),
    "potted plant": ("plant",),
    "boat": ("small boat",),
}
TOYS = frozenset(
    {
        "backpack",
        "duck",
        "robot",
        "car",
        "monster",
        "cat",
        "dog",
        "owl",
        "penguin",
        "frog",
        "tractor",
        "rocket",
        "truck",
        "horse",
    }
)

PLACES: dict[str, tuple[str, ...]] = {
    "beach": ("on the beach", "on the beach", "at the beach"),
    "snow": ("in the snow", "in the snow", "in the white snow"),
    "meadow": ("in the grass", "on green grass", "in a meadow"),
    "desert": ("in the desert", "in the desert", "on a sand dune"),
    "night": ("at night", "at night", "under the night sky"),
    "under water": ("under water", "underwater", "under the sea"),
    "space": ("in space", "in space", "in outer space"),
    "city": ("in the city", "on a city street", "with a city in the background"),
    "forest": ("in the forest", "in the forest", "in the woods"),
    "wooden table": ("on a wooden table", "on a wooden table", "on top of a wooden table"),
    "sunset": ("at sunset", "at sunset", "with a sunset in the background"),
    "mountains": ("in the mountains", "in the mountains", "with a mountain in the background"),
    "park": ("in the park", "in the park", "on a lawn in the park"),
    "room": ("in a room", "in a room", "in an apartment"),
    "lobby": ("in a lobby", "in a lobby", "in a hall"),
    "workshop": ("in a workshop", "in a workshop", "in a factory"),
    "warehouse": ("in a warehouse", "in a warehouse", "in an old warehouse"),
    "square": ("on a town square", "on a town square", "on an old square"),
}
COLORS: dict[str, tuple[int, int, int]] = {
    "white": (242, 242, 240),
    "gray": (150, 152, 156),
    "black": (28, 28, 32),
    "red": (204, 52, 48),
    "orange": (240, 150, 50),
    "yellow": (245, 215, 80),
    "green": (84, 168, 86),
    "blue": (70, 125, 215),
    "purple": (135, 85, 180),
    "pink": (244, 160, 190),
}
PLACE_NAMES: tuple[str, ...] = (*PLACES, *(f"{color} background" for color in COLORS))

TREATMENTS: dict[str, tuple[str, ...]] = {
    "photo": ("a photo of {}", "a photo of {}", "{}", "a picture of {}"),
    "pencil sketch": ("a pencil sketch of {}", "a pencil drawing of {}"),
    "pixel art": ("pixel art of {}", "a pixel art picture of {}"),
    "watercolor": ("a watercolor painting of {}", "a watercolor of {}"),
    "black and white": ("a black and white photo of {}", "a black and white picture of {}"),
}

# A flat object's photo is as often called what it is.
FLAT_PHOTO = ("a cartoon of {}", "a drawing of {}", "a cartoon of {}")

# Never drawn together, so that a test can ask for a pair no picture has shown.
HELD_OUT_PAIRS: frozenset[tuple[str, str]] = frozenset(
    {
        ("owl", "beach"),
        ("teapot", "snow"),
        ("robot", "forest"),
        ("backpack", "desert"),
        ("penguin", "wooden table"),
        ("strawberry", "space"),
        ("tractor", "under water"),
        ("cactus", "city"),
        ("duck", "mountains"),
        ("car", "meadow"),
        ("mushroom", "sunset"),
        ("teddy bear", "night"),
        ("chair", "beach"),
        ("sofa", "under water"),
        ("horse", "snow"),
        ("bicycle", "desert"),
        ("lamp", "forest"),
        ("guitar", "space"),
        ("truck", "park"),
        ("airplane", "room"),
    }
)

Choice = TypeVar("Choice")
_CONSONANTS = "bcdfghjklmnpqrstvwxz"
_VOWELS = "aeiouy"


@dataclass(frozen=True, kw_only=True)
class Label:
    """What one picture shows. An object of None is an empty place."""

    object: str | None
    rendition: int
    place: str
    treatment: str

    @property
    def solid(self) -> bool:
        """Whether the object is a rendered shape and not an icon."""
        return self.object is not None and self.rendition >= len(FLAT.get(self.object, ()))


def draw_label(rng: np.random.Generator) -> Label:
    """Draws what a picture shall show; never a held-out pair."""
    while True:
        name = None if rng.random() < 0.03 else _pick(rng, tuple(OBJECTS))
        place = _pick(rng, tuple(PLACES)) if rng.random() < 0.72 else f"{_pick(rng, tuple(COLORS))} background"
        if name is None or (name, place) not in HELD_OUT_PAIRS:
            break
    treatment = "photo" if rng.random() < 0.48 else _pick(rng, tuple(TREATMENTS)[1:])
    rendition = _draw_rendition(name, rng) if name else 0
    return Label(object=name, rendition=rendition, place=place, treatment=treatment)


def compose_caption(label: Label, rng: np.random.Generator, words: Sequence[str] = ()) -> str:
    """Says a label in one of its wordings; one caption in twelve carries a rare word before the object.

    Args:
        label: What the picture shows.
        rng: Picks the wording.
        words: Real words the world does not draw; as rare words they become neutral too.
    """
    where = _say_place(label.place, rng)
    if label.object is None:
        thing = "an empty place"
    else:
        noun = _say_object(label.object, rng)
        rare = f"{_rare_word(rng, words)} " if rng.random() < 1 / 12 else ""
        article = "a" if rare else article_of(noun)
        article = _pick(rng, (article, article, article, "the", "my")) if rng.random() < 0.2 else article
        thing = f"{article} {rare}{noun}"
    wordings = TREATMENTS[label.treatment]
    if label.treatment == "photo" and label.object is not None and not label.solid and rng.random() < 0.5:
        wordings = FLAT_PHOTO
    return _pick(rng, wordings).format(f"{thing} {where}")


def article_of(noun: str) -> str:
    """The indefinite article a noun takes."""
    return "an" if noun[0] in "aeiou" else "a"


def _draw_rendition(name: str, rng: np.random.Generator) -> int:
    """Flat and solid looks are equally common where an object has both."""
    flat, solid = len(FLAT.get(name, ())), len(SOLID.get(name, ()))
    if flat and (not solid or rng.random() < 0.5):
        return int(rng.integers(flat))
    return flat + int(rng.integers(solid))


def _say_object(name: str, rng: np.random.Generator) -> str:
    if name in SYNONYMS and rng.random() < 0.25:
        return _pick(rng, SYNONYMS[name])
    if name in TOYS and rng.random() < 0.15:
        return f"toy {name}" if rng.random() < 0.5 else f"{name} toy"
    return name


def _say_place(place: str, rng: np.random.Generator) -> str:
    if place in PLACES:
        return _pick(rng, PLACES[place])
    return f"on {article_of(place)} {place}"


def _rare_word(rng: np.random.Generator, words: Sequence[str]) -> str:
    kind = rng.random()
    if kind < 0.3:
        return _pick(rng, ("zwx", "sks", "ohwx", "xyz", "qrw"))
    if kind < 0.6 and words:
        return _pick(rng, tuple(words))
    letters = (_CONSONANTS, _pick(rng, (_VOWELS, _CONSONANTS)), _CONSONANTS, _pick(rng, (_VOWELS, _CONSONANTS)))
    return "".join(letters_of[int(rng.integers(len(letters_of)))] for letters_of in letters[: int(rng.integers(3, 5))])


def _pick(rng: np.random.Generator, choices: Sequence[Choice]) -> Choice:
    return choices[int(rng.integers(len(choices)))]
