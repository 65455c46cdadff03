"""Where the recipe keeps its files, and the few numbers every stage shares."""

from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
SEED = 20
IMAGE_SIZE = 64
LATENT_SIZE = 16
LATENT_CHANNELS = 8
TEXT_LENGTH = 32
TEXT_WIDTH = 192


@dataclass(frozen=True, kw_only=True)
class Workplace:
    """The ignored folder that holds sources, caches and checkpoints, the folders of the weights, and how large the world is."""

    root: Path = REPOSITORY / ".pocket"
    assets: Path = REPOSITORY / "assets" / "pocket"
    flow_assets: Path = REPOSITORY / "assets" / "pocket-flow"
    chunk: int = 2000  # pictures of the world in one file
    held_out: int = 1000  # the world's last pictures, never trained on

    @property
    def packs(self) -> Path:
        """The folder npm installs the icon packs into."""
        return self.modules / "@iconify-json"

    @property
    def modules(self) -> Path:
        """The folder npm installs into."""
        return self.root / "npm" / "node_modules"

    @property
    def furniture(self) -> Path:
        """The unpacked Debian package of furniture."""
        return self.root / "furniture"

    @property
    def panoramas(self) -> Path:
        """The unpacked panoramas."""
        return self.root / "panoramas"

    @property
    def solids(self) -> Path:
        """The rendered views of the solid objects."""
        return self.root / "solids"

    @property
    def world(self) -> Path:
        """The drawn pictures and their labels."""
        return self.root / "world"

    @property
    def tokenizer(self) -> Path:
        """The trained tokenizer."""
        return self.root / "tokenizer"

    @property
    def flow_tokenizer(self) -> Path:
        """The trained tokenizer of the flow model."""
        return self.root / "flow_tokenizer"

    def checkpoint(self, stage: str) -> Path:
        """The one checkpoint file of a training stage."""
        return self.root / f"{stage}.safetensors"
