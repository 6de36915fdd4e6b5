"""The masks of one class table read as those of another: by the names of the classes, not by their ids.

Labels are made with one table and scored under a model with another, and id 3 may be a road in one and a car in the
other. Whoever brings two tables together does it here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np
from numpy.typing import NDArray

from transkd_ros.model.labels import LabelTable


class ClassTableError(ValueError):
    """Two class tables that cannot be brought together; the text is one line."""


@dataclass(frozen=True)
class ClassMap:
    """From the ids of `source` to those of `target`."""

    source: LabelTable
    target: LabelTable

    @property
    def unknown(self) -> list[str]:
        """Classes of `source` that `target` lacks: their pixels have no class there."""
        return [name for name in self.source.names if name not in self.target.names]

    @property
    def missing(self) -> list[str]:
        """Classes of `target` that `source` lacks: no pixel can be of them."""
        return [name for name in self.target.names if name not in self.source.names]

    @cached_property
    def ids(self) -> NDArray[np.uint8]:
        """(256,) the id in `target` by that in `source`; its ignore id where there is none."""
        ids = np.full(256, self.target.ignore_id, np.uint8)
        for i, name in enumerate(self.source.names):
            if name in self.target.names:
                ids[i] = self.target.names.index(name)
        return ids

    @property
    def scored(self) -> NDArray[np.bool_]:
        """(classes of `target`,) whether `source` can label it."""
        return np.array([name in self.source.names for name in self.target.names])

    @cached_property
    def undefined(self) -> NDArray[np.bool_]:
        """(256,) whether `source` neither has a class of that id nor ignores it."""
        undefined = np.ones(256, bool)
        undefined[[*range(len(self.source.names)), self.source.ignore_id]] = False
        return undefined

    def remark(self, whose: str, model: str) -> str:
        """What a reader of scores has to know, in a sentence; "" where all classes agree.

        `whose` are the labels of `source`, `model` is that of `target`.
        """
        parts = []
        if self.unknown:
            parts.append(f"{_listed(self.unknown)} of {whose} are no classes of {model} and count as unlabelled")
        if self.missing:
            parts.append(f"{_listed(self.missing)} of {model} are never labelled and not scored")
        return f"Classes are compared by name: {'; '.join(parts)}." if parts else ""

    def __call__(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The (H, W) uint8 mask of `source` as one of `target`."""
        return cv2.LUT(mask, self.ids).astype(np.uint8, copy=False)


def class_map(source: LabelTable, target: LabelTable, whose: str, model: str) -> ClassMap:
    """The map by names; `whose` labels and which `model` they are for is said in the error.

    Raises ClassTableError if no name agrees: nothing could be compared.
    """
    if not set(source.names) & set(target.names):
        raise ClassTableError(
            f"{whose} and {model} have no class in common: {_listed(source.names)} against {_listed(target.names)}"
        )
    return ClassMap(source, target)


def _listed(names: tuple[str, ...] | list[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
