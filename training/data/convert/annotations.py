"""What every reader of an export gives: images, each with a mask of the export's own classes."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from transkd_ros.model.labels import Color, LabelTable

UNLABELLED = 255
"""The id of no class in every mask of `Annotations`."""


class ConversionError(ValueError):
    """An export that cannot be converted; the text names the file and says what to do."""


class Annotated(NamedTuple):
    """An image file, the name under which it is written, and its mask when asked for, (H, W) uint8 ids."""

    image: Path
    name: str
    mask: Callable[[], np.ndarray]


@dataclass(frozen=True)
class Annotations:
    """The images of an export; `classes` is its own class table, with UNLABELLED for no class.

    `remarks` say what was left out.
    """

    classes: LabelTable
    images: list[Annotated]
    remarks: list[str] = field(default_factory=list)


def table_of(names: Iterable[str]) -> LabelTable:
    """A class table of these names in their order, with colours far apart. Raises ConversionError for too many."""
    names = tuple(dict.fromkeys(names))
    if not 1 <= len(names) <= UNLABELLED:
        raise ConversionError(f"{len(names)} classes; there must be 1 to {UNLABELLED}")
    return LabelTable(names, tuple(_color(i) for i in range(len(names))), UNLABELLED)


def _color(i: int) -> Color:
    """Hues in steps of the golden ratio: neighbours differ, and none comes twice."""
    red, green, blue = colorsys.hsv_to_rgb(i * 0.618034 % 1, (0.55, 0.75, 0.95)[i % 3], (0.9, 0.7)[i % 2])
    return round(255 * red), round(255 * green), round(255 * blue)
