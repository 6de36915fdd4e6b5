"""CamVid's 11 classes, with rendered scenes mixed into the training split."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch.utils.data import ConcatDataset

from training.data.base import SegmentationData, Split
from training.data.samples import LabelledImages, own_ids
from training.data.scenes import RenderedScenes
from transkd_ros.bags.image_folder import ImageFolderError, list_frames
from transkd_ros.scenes.weather import WeatherName

ROOTS = ("data/camvid", "../shared/data/camvid")


class CamVid(SegmentationData):
    """CamVid train (and `scenes` rendered ones, beside `limit`) for training, CamVid val for validation.

    `root` holds `train/` and `val/`, each with `images/` and `labels/`; without it, $CAMVID_ROOT, data/camvid and
    ../shared/data/camvid are looked at. `weathers` of the scenes: see RenderedScenes. Other options: those of
    SegmentationData.
    """

    labels = "camvid"

    def __init__(
        self, root: str | None = None, scenes: int = 48, weathers: list[WeatherName] | None = None, **options: Any
    ) -> None:
        super().__init__(root, **options)

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if self.hparams["scenes"]:
            scenes = RenderedScenes(self.hparams["scenes"], weathers=self.hparams["weathers"] or ())
            self.train_set = ConcatDataset([self.train_set, scenes])

    def split(self, name: Split) -> LabelledImages:
        given = self.hparams["root"]
        root = find_camvid(given)
        if root is None:
            raise ImageFolderError(
                f"no CamVid (train and val, each with images and labels) at {given or ', '.join(ROOTS)}; "
                "give its folder with --data.init_args.root or $CAMVID_ROOT"
            )
        pairs = list_frames(root / name / "images", root / name / "labels")
        return LabelledImages(pairs, own_ids(self.classes), keep=True)


def find_camvid(root: str | None = None) -> Path | None:
    """The folder of CamVid: `root` if given, else the first of $CAMVID_ROOT and ROOTS that holds it; None if none."""
    candidates = [Path(name) for name in ([root] if root else [os.environ.get("CAMVID_ROOT"), *ROOTS]) if name]
    return next((path for path in candidates if (path / "train" / "images").is_dir()), None)
