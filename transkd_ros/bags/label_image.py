"""What annotation tools write as a label image, read as class ids: grey or palette images of ids, images of colours.

Grey values are ids. With a class table, an image of colours is read by the colours of its classes, and so is a palette
whose colours are those; black is no class where no class is black. Any other palette holds ids: its colours are only
for the eye.
"""

from __future__ import annotations

import cv2
import numpy as np

from transkd_ros.bags import palette_png
from transkd_ros.model.labels import LabelTable

_MOST_NAMED = 5  # colours in an error


class LabelImageError(ValueError):
    """A label image that cannot be read; the text goes on behind the file's name."""


def mask_of(data: bytes, table: LabelTable | None = None) -> np.ndarray:
    """The bytes of a label image as a mask, (H, W) uint8 class ids. Raises LabelImageError."""
    if palette_png.has_palette(data):
        return _of_palette(data, table)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if data else None
    if pixels is None:
        raise LabelImageError("not an image that OpenCV can decode (broken or unknown format)")
    if pixels.dtype != np.uint8:
        raise LabelImageError(f"a label must be an 8-bit image, not {pixels.dtype}")
    if pixels.ndim == 2:
        return pixels
    if table is None:
        raise LabelImageError(
            "an image of colours; a label must be a single-channel or palette image of class ids, or its class table "
            "be given, by whose colours it is read"
        )
    mask, foreign = table.mask_of_colors(np.ascontiguousarray(pixels[..., 2::-1]))
    if foreign and (pixels[..., :1] == pixels[..., 1:3]).all():
        return pixels[..., 0]  # ids, saved as grey in three channels
    if foreign:
        raise LabelImageError(_foreign(foreign, table))
    return mask


def _of_palette(data: bytes, table: LabelTable | None) -> np.ndarray:
    try:
        indices, colors = palette_png.indices(data), palette_png.palette(data)
    except ValueError as error:
        raise LabelImageError(f"a palette PNG that cannot be read: {error}") from error
    if indices is None:
        raise LabelImageError("a palette PNG that OpenCV cannot decode")
    if table is None:
        return indices
    used = np.unique(indices)
    if used[-1] >= len(colors):
        raise LabelImageError(f"index {used[-1]} in a palette of {len(colors)} colours")
    ids, foreign = table.mask_of_colors(colors[np.newaxis])
    known = [tuple(color) not in foreign for color in colors.tolist()]
    named = {tuple(color) for color in colors[used].tolist()} & set(table.colors)
    # A palette in which only black occurs says nothing, unless it holds all classes' colours.
    speaks = bool(named) or set(table.colors) <= set(map(tuple, colors.tolist()))
    if speaks and all(known[i] for i in used):
        lut = np.full(256, table.ignore_id, np.uint8)
        lut[: len(colors)] = ids[0]
        return cv2.LUT(indices, lut).astype(np.uint8, copy=False)
    return indices


def _foreign(colors: list[tuple[int, int, int]], table: LabelTable) -> str:
    shown = ", ".join(map(str, colors[:_MOST_NAMED])) + (" …" if len(colors) > _MOST_NAMED else "")
    known = ", ".join(f"{name} {color}" for name, color in zip(table.names, table.colors, strict=True))
    return f"colours of no class: {shown}; the class table has {known}"
