"""Rendered scenes as samples, each one frame of a drive of its own."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from training.data.samples import Samples
from transkd_ros.scenes import Drive
from transkd_ros.scenes.weather import WeatherName


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
