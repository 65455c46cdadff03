"""Writes who made what: `assets/pocket/ATTRIBUTION.md` from the vocabulary and the catalogues, one row a source."""

from collections import defaultdict

from tools.pocket.files import write_text
from tools.pocket.furniture import read_model
from tools.pocket.panoramas import PACKAGE, PANORAMAS
from tools.pocket.settings import Workplace
from tools.pocket.solids import LIGHTS, list_solids
from tools.pocket.sprites import PACK_VERSIONS
from tools.pocket.subjects import SCENES, SUBJECTS

PACKS = {
    "fluent-emoji": ("Fluent Emoji", "Microsoft Corporation", "MIT"),
    "noto": ("Noto Emoji", "Google Inc", "Apache-2.0"),
    "noto-v1": ("Noto Emoji, first version", "Google Inc", "Apache-2.0"),
    "twemoji": ("Twitter Emoji", "Twitter and the Twemoji contributors", "CC-BY-4.0"),
}
LIBRARIES = {
    "BlendSwap-CC-0": ("CC0-1.0", "shared on Blend Swap, prepared by Emmanuel Puybaret / eTeks"),
    "BlendSwap-CC-BY": ("CC-BY-3.0", "shared on Blend Swap, prepared by Emmanuel Puybaret / eTeks"),
    "KatorLegaz": ("CC-BY-3.0-US", "Andrew Kator and Jennifer Legaz"),
    "Scopia": ("CC-BY-3.0", "Scopia Visual Interfaces Systems, s.l."),
}
_HEAD = """# Attribution

The weights in this folder were trained on pictures drawn by `tools/pocket/`, and the example and benchmark subjects were
photographed by it. No photo and no weights of any other model went into the weights. `python -m tools.pocket export`
writes this file.

## Icons

Rasterized, scaled, tilted, mirrored and put through filters. The tokenizer's words come from the captions and from the icon
names of `@iconify-json/fluent-emoji`.

| package (npm) | version | what | creators | license |
| --- | --- | --- | --- | --- |
"""
_SHAPES = """
## Shapes

From Debian's package `sweethome3d-furniture` 1.8 (the furniture libraries of Sweet Home 3D), rendered from many sides in many
lights, some with their colors turned. *Used for* says whether a shape taught the model or is a subject it never saw.

| shape | what | creator | library | license | used for |
| --- | --- | --- | --- | --- | --- |
"""
_PLACES = """
## Panoramas

From npm `{package}`: Poly Haven's panoramas (polyhaven.com, CC0-1.0), reduced to 512 x 256 by that package. They are places of
the world and light the shapes: {names}.
"""


def write_attribution(workplace: Workplace) -> None:
    """Writes the file anew.

    Raises:
        MissingSourceError: The furniture libraries are not installed.
    """
    text = _HEAD
    for pack, (what, creators, license_name) in PACKS.items():
        text += f"| `@iconify-json/{pack}` | {PACK_VERSIONS[pack]} | {what} | {creators} | {license_name} |\n"
    text += _SHAPES
    for name, uses in _uses().items():
        model = read_model(workplace.furniture, name)
        license_name, library = LIBRARIES[name.partition(":")[0]]
        creator = "" if model.creator == "unknown" else model.creator
        text += f"| `{name}` | {model.title} | {creator} | {library} | {license_name} | {', '.join(uses)} |\n"
    names = {name for names in PANORAMAS.values() for name in names} | set(LIGHTS) | {name for name, _ in SCENES}
    text += _PLACES.format(package=PACKAGE, names=", ".join(sorted(names)))
    write_text(workplace.assets / "ATTRIBUTION.md", text)


def _uses() -> dict[str, list[str]]:
    uses: dict[str, list[str]] = defaultdict(list)
    for name in list_solids():
        uses[name].append("training")
    for subject in SUBJECTS:
        uses[subject.model].append(f"{subject.role} {subject.key}")
    return uses
