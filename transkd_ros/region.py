"""Which part of a frame the network sees, how it fills the network's input, and where its mask goes."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from transkd_ros.frames import ENCODINGS, Frame, FrameError, resize_mask
from transkd_ros.sizes import Size

GREY = (114, 114, 114)  # of the bars of a letterbox


class Region(NamedTuple):
    """A rectangle in whole pixels of an image."""

    top: int
    left: int
    height: int
    width: int

    @property
    def size(self) -> Size:
        return self.height, self.width

    def of(self, pixels: np.ndarray) -> np.ndarray:
        """The part of `pixels` (H, W[, C]) inside, a view."""
        return pixels[self.top : self.top + self.height, self.left : self.left + self.width]


class Mapping(NamedTuple):
    """Where a point of the frame lies in the mask: (scale_x * x + shift_x, scale_y * y + shift_y).

    x and y count from the image's corner, so that the centre of the first pixel is at 0.5.
    """

    scale_x: float
    scale_y: float
    shift_x: float
    shift_y: float


def crop(frame: Frame, region: Region | None) -> tuple[Frame, Region]:
    """The part of a frame that lies in `region` (None: all), and where that is.

    The corners of colour mosaics are moved outwards to even pixels. Raises FrameError (size) if nothing is left. The
    frame must not have been decoded at a reduced size.
    """
    height, width = frame.size
    if region is None:
        return frame, Region(0, 0, height, width)
    top, left, bottom, right = region.top, region.left, region.top + region.height, region.left + region.width
    if ENCODINGS[frame.encoding].is_mosaic:
        top, left, bottom, right = top - top % 2, left - left % 2, bottom + bottom % 2, right + right % 2
    inside = Region(top, left, min(bottom, height) - top, min(right, width) - left)
    if inside.height <= 0 or inside.width <= 0:
        raise FrameError("size", f"frame is {width}x{height}; the region {list(region)} lies outside")
    return Frame(inside.of(frame.pixels), frame.encoding), inside


def fill(frame: Frame, size: Size, letterbox: bool) -> tuple[np.ndarray, Region]:
    """The frame as (H, W, 3) uint8 RGB of `size`, and the part of it that shows the frame.

    Stretched, or with `letterbox` as large as its aspect ratio allows, in the middle of grey bars.
    """
    if not letterbox:
        return frame.rgb(size), Region(0, 0, *size)
    scale = min(size[0] / frame.size[0], size[1] / frame.size[1])
    height, width = (max(1, min(limit, round(side * scale))) for side, limit in zip(frame.size, size, strict=True))
    inside = Region((size[0] - height) // 2, (size[1] - width) // 2, height, width)
    below, right = size[0] - height - inside.top, size[1] - width - inside.left
    image = frame.rgb(inside.size)
    if inside.size != size:
        image = cv2.copyMakeBorder(image, inside.top, below, inside.left, right, cv2.BORDER_CONSTANT, value=GREY)
    return image, inside


def place(mask: np.ndarray, inside: Region, seen: Region, frame: Size, size: Size | None, outside: int) -> np.ndarray:
    """The network's mask (h, w) uint8 of the region `seen` of a frame as one of the whole frame.

    `inside` is the part of `mask` that shows the region, `size` (H, W) the size of the result; None keeps the
    network's view. What was not seen is `outside`.
    """
    if size is None:
        if inside.size == mask.shape:
            return mask
        kept = np.full_like(mask, outside)
        inside.of(kept)[:] = inside.of(mask)
        return kept
    shown = mask if inside.size == mask.shape else np.ascontiguousarray(inside.of(mask))
    if seen.size == frame:
        resized: np.ndarray = resize_mask(shown, size)
        return resized
    placed = np.full(size, outside, np.uint8)
    there = _scaled(seen, size[0] / frame[0], size[1] / frame[1])
    if there.height and there.width:
        there.of(placed)[:] = resize_mask(shown, there.size)
    return placed


def mapping(inside: Region, seen: Region, frame: Size, size: Size | None) -> Mapping:
    """How `place`, called with the same, moves the points of a frame."""
    if size is not None:
        return Mapping(size[1] / frame[1], size[0] / frame[0], 0.0, 0.0)
    scale_x, scale_y = inside.width / seen.width, inside.height / seen.height
    return Mapping(scale_x, scale_y, inside.left - seen.left * scale_x, inside.top - seen.top * scale_y)


def _scaled(region: Region, scale_y: float, scale_x: float) -> Region:
    top, bottom = round(region.top * scale_y), round((region.top + region.height) * scale_y)
    left, right = round(region.left * scale_x), round((region.left + region.width) * scale_x)
    return Region(top, left, bottom - top, right - left)
