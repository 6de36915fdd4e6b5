"""PNG files with a palette, as annotation tools write labels: the stored indices, which OpenCV turns into colours.

A palette PNG and a grey one hold the same samples; only the header tells them apart (PNG specification, 11.2).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

import cv2
import numpy as np

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GREY, _PALETTE = 0, 3  # colour types


def has_palette(data: bytes) -> bool:
    """Whether the bytes are those of a PNG file with a palette."""
    return data.startswith(_SIGNATURE) and len(data) > 25 and data[25] == _PALETTE


def palette(data: bytes) -> np.ndarray:
    """(n, 3) uint8 RGB: the palette of a palette PNG. Raises ValueError if it is broken."""
    entries = next((body for kind, body in _chunks(data) if kind == b"PLTE"), b"")
    if not entries or len(entries) % 3:
        raise ValueError("the palette is missing or broken")
    return np.frombuffer(entries, np.uint8).reshape(-1, 3)


def indices(data: bytes) -> np.ndarray | None:
    """(H, W) uint8 indices of a palette PNG; None where OpenCV cannot decode it. Raises ValueError if it is broken."""
    depth = data[24]
    grey = [_SIGNATURE]
    for kind, body in _chunks(data):
        if kind == b"IHDR":
            body = body[:9] + bytes([_GREY]) + body[10:]
        if kind not in (b"PLTE", b"tRNS"):
            checksum = zlib.crc32(kind + body)
            grey.append(struct.pack(">I4s", len(body), kind) + body + struct.pack(">I", checksum))
    stored = cv2.imdecode(np.frombuffer(b"".join(grey), np.uint8), cv2.IMREAD_UNCHANGED)
    # Samples of 1, 2 and 4 bits are stretched to the full range of grey.
    return None if stored is None else stored // (255 // ((1 << depth) - 1))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(type, content) of every chunk."""
    at = len(_SIGNATURE)
    while at < len(data):
        if at + 12 > len(data):
            raise ValueError("the file is cut off")
        length, kind = struct.unpack_from(">I4s", data, at)
        yield kind, data[at + 8 : at + 8 + length]
        at += 12 + length
