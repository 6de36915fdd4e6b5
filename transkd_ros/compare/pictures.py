"""How a pair of masks is shown: who differs where, and everything beside each other. RGB, uint8."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from transkd_ros.compare.pairing import Mask, Pair
from transkd_ros.frames import Frame, resize_mask
from transkd_ros.model.labels import LabelTable
from transkd_ros.reports.album import legend

Pixels = NDArray[np.uint8]

_TILE = 640  # pixels a tile of the side-by-side picture is wide, at most
_AGREED = 235  # light grey
_OPACITY = 0.6


def disagreement(labels: LabelTable, pair: Pair) -> Pixels:
    """(H, W, 3): light grey where the two agree, elsewhere the colour of the student's class."""
    picture = labels.colorize(pair.student)
    picture[pair.teacher == pair.student] = _AGREED
    return picture


def side_by_side(labels: LabelTable, pair: Pair, frame: Frame | None) -> Pixels:
    """Frame and teacher above student and disagreement, above a legend; masks alone where the frame is not there."""
    height, width = pair.teacher.shape
    size = max(1, round(height * min(1.0, _TILE / width))), min(width, _TILE)
    small = Pair(pair.stamp_ns, resize_mask(pair.teacher, size), resize_mask(pair.student, size))
    rgb = frame.rgb(size) if frame else None

    def drawn(mask: Mask) -> Pixels:
        return labels.colorize(mask) if rgb is None else labels.overlay(rgb, mask, _OPACITY)

    ground = np.zeros((*size, 3), np.uint8) if rgb is None else rgb
    tiles = {
        "frame" if frame else "frame (not heard)": ground,
        "teacher": drawn(small.teacher),
        "student": drawn(small.student),
        "student where they differ": disagreement(labels, small),
    }
    captioned = [_captioned(tile, text) for text, tile in tiles.items()]
    rows = [np.concatenate(captioned[:2], axis=1), np.concatenate(captioned[2:], axis=1)]
    return np.concatenate([*rows, legend(labels, 2 * size[1])])


def _captioned(tile: Pixels, text: str) -> Pixels:
    """A copy with the text on darkened ground in the corner."""
    tile = tile.copy()
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.5
    (width, height), _ = cv2.getTextSize(text, font, scale, 1)
    tile[: height + 12, : width + 12] //= 3
    cv2.putText(tile, text, (6, height + 5), font, scale, (255, 255, 255), 1, cv2.LINE_AA)
    return tile
