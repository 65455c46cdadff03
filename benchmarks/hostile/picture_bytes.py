"""Files of picture formats, written byte by byte, so that they may lie."""

import io
import struct
import zlib

from PIL import Image

SIDE = 100


def png(width: int, height: int, pixels: bytes) -> bytes:
    """A PNG that claims a size, and holds other pixels."""
    size = struct.pack(">II", width % 2**32, height % 2**32)
    chunks = _chunk(b"IHDR", size + b"\x08\x02\0\0\0") + _chunk(b"IDAT", zlib.compress(pixels, 9))
    return b"\x89PNG\r\n\x1a\n" + chunks + _chunk(b"IEND", b"")


def png_with(kind: bytes, content: bytes, times: int = 1) -> bytes:
    """A whole PNG of SIDE x SIDE with chunks of a kind in it."""
    whole = png(SIDE, SIDE, (b"\0" + b"\x80" * 3 * SIDE) * SIDE)
    return whole[:33] + _chunk(kind, content) * times + whole[33:]


def bmp(width: int, height: int) -> bytes:
    """The header of a BMP of 24 bits, and a few pixels."""
    about = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 1000, 0, 0, 54) + about + b"\0" * 900


def animated_webp(side: int) -> bytes:
    """184 bytes that ask for two pictures of `side` x `side`; one frame is 16 x 16."""
    canvas = (side - 1).to_bytes(3, "little") * 2
    frame = bytes.fromhex("2f0fc003001f20401010880c0010")  # a lossless picture of 16 x 16
    body = b"VP8L" + struct.pack("<I", len(frame)) + frame
    frames = _part(b"ANMF", b"\0" * 6 + (15).to_bytes(3, "little") * 2 + b"\x64\0\0\0" + body) * 3
    content = b"WEBP" + _part(b"VP8X", b"\x02\0\0\0" + canvas) + _part(b"ANIM", b"\0" * 6) + frames
    return b"RIFF" + struct.pack("<I", len(content)) + content


def exif(entries: int) -> bytes:
    """TIFF metadata that claims many entries, and holds them."""
    count = min(entries, 65_535)
    entry = struct.pack("<HHII", 0x010E, 2, 1_000_000, 8)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", count) + entry * entries


def jpeg_with(content: bytes, times: int, marker: int = 0xE1) -> bytes:
    """A JPEG of gray with segments of a kind before it."""
    whole = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), "gray").save(whole, format="JPEG")
    segment = bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content
    return b"\xff\xd8" + segment * times + whole.getvalue()[2:]


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _part(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
