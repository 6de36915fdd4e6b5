"""Rendered scenes as a data set, which needs no file."""

from __future__ import annotations

from typing import Any

from training.data.base import SegmentationData, Split
from training.data.scenes import RenderedScenes
from transkd_ros.scenes.weather import WeatherName

FIRST_VAL_DRIVE = 1_000_000
"""Far above any number of drives to train on, so that none is validated."""


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
