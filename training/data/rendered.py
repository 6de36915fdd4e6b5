"""Rendered scenes as samples, each one frame of a drive of its own; and as a data set, which needs no file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from training.data.base import SegmentationData, Split
from training.data.samples import Samples
from transkd_ros.scenes import Drive
from transkd_ros.scenes.weather import WeatherName

FIRST_VAL_DRIVE = 1_000_000
"""Far above any number of drives to train on, so that none is validated."""


class RenderedScenes(Samples):
    """`count` scenes in CamVid's 11 classes, of the drives from `first` on, rendered when read.

    `weathers` take turns; without them each drive draws its own, by daylight.
    """

    def __init__(
        self, count: int, size: tuple[int, int] = (360, 480), first: int = 0, weathers: Sequence[WeatherName] = ()
    ) -> None:
        self.count, self.size, self.first, self.weathers = count, size, first, weathers
        self._cache: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if index not in self._cache:
            weather = self.weathers[index % len(self.weathers)] if self.weathers else None
            self._cache[index] = Drive(self.first + index, self.size, weather).frame(index % 50)
        return self._cache[index]


class Rendered(SegmentationData):
    """`scenes` rendered ones to train on and `val_scenes` others for validation, in CamVid's 11 classes.

    A domain of its own, for a teacher from elsewhere. `weathers`: see RenderedScenes. Other options: those of
    SegmentationData.
    """

    labels = "camvid"

    def __init__(
        self, scenes: int = 200, val_scenes: int = 24, weathers: list[WeatherName] | None = None, **options: Any
    ) -> None:
        super().__init__(None, **options)

    def split(self, name: Split) -> RenderedScenes:
        weathers = self.hparams["weathers"] or ()
        if name == "train":
            return RenderedScenes(self.hparams["scenes"], weathers=weathers)
        return RenderedScenes(self.hparams["val_scenes"], first=FIRST_VAL_DRIVE, weathers=weathers)
