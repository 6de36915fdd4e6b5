"""A data set of one's own: two folders a split, images, and label masks of class ids with the same names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.data.base import SegmentationData, Split
from training.data.samples import LabelledImages, own_ids
from transkd_ros.bags.image_folder import list_frames


class Folder(SegmentationData):
    """`root` holds `train/` and `val/`, each with `images/` and `labels/`: single-channel 8-bit files of class ids.

    `labels` names the class table in config/labels, or a YAML file of one. Options: those of SegmentationData.
    """

    def __init__(self, root: str, labels: str, **options: Any) -> None:
        super().__init__(root, **options)
        self.labels = labels

    def split(self, name: Split) -> LabelledImages:
        folder = Path(self.hparams["root"]) / name
        return LabelledImages(list_frames(folder / "images", folder / "labels"), own_ids(self.classes))
