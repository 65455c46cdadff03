"""Caption files as other trainers have them: a text beside each photo, `cat.txt` beside `cat.jpg`."""

from pathlib import Path

from apt_engine.errors import PhotoError
from apt_engine.reading.regular import read_regular

SUFFIX = ".txt"
LONGEST_CAPTION = 300  # characters
LARGEST_FILE = 10_000  # bytes
MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def caption_beside(photo: Path) -> str:
    """The caption in the text file beside a photo; empty where there is none.

    Raises:
        PhotoError: it is there and cannot be used.
    """
    path = photo.with_suffix(SUFFIX)
    if not path.exists():
        return ""
    try:
        content = read_regular(path, LARGEST_FILE)
    except OSError as error:
        raise PhotoError(f"Caption file {path.name} cannot be read ({error.strerror}); write it anew.") from error
    return read_caption(content, path.name)


def read_caption(content: bytes, name: str) -> str:
    """The caption that a text file holds, in UTF-8, UTF-16 or Latin-1, its lines joined.

    Raises:
        PhotoError: it is no text, or too long for a caption.
    """
    text = " ".join(_decoded(content, name).split())
    if not text.isprintable():
        raise PhotoError(f"Caption file {name} holds no plain text; save it as UTF-8.")
    if len(text) > LONGEST_CAPTION:
        raise PhotoError(f"Caption file {name} has {len(text):,} characters; keep it within {LONGEST_CAPTION}.")
    return text


def _decoded(content: bytes, name: str) -> str:
    marked = next((encoding for mark, encoding in MARKS.items() if content.startswith(mark)), "")
    # Latin letters in UTF-16 have a zero in each pair, which no other text has.
    even, odd = content[::2].count(0), content[1::2].count(0)
    guessed = "utf-16-be" if even > odd else "utf-16-le" if odd else ""
    for encoding in filter(None, (marked, guessed, "utf-8")):
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            if encoding != "utf-8":
                raise PhotoError(f"Caption file {name} holds no plain text; save it as UTF-8.") from None
    return content.decode("latin-1")
