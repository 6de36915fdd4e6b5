"""Cityscapes with fine annotations, 19 classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.data.base import SegmentationData, Split
from training.data.samples import IGNORE, LabelledImages, find, own_ids, pair
from training.sizes import ImageSize

LABEL_IDS = 34
"""How many values a *_labelIds.png may hold."""
TRAINED = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Which of them is class 0, 1, … of the 19 that are trained and evaluated; the others are ignored."""


class Cityscapes(SegmentationData):
    """`root` holds `leftImg8bit/SPLIT/CITY/*_leftImg8bit.png` and `gtFine/SPLIT/CITY/*_gtFine_labelIds.png`.

    Where a split has *_gtFine_labelTrainIds.png, these are used instead. Options: those of SegmentationData.
    """

    labels = "cityscapes"

    def __init__(
        self,
        root: str,
        crop: ImageSize = ImageSize(512, 1024),
        val_size: ImageSize = ImageSize(512, 1024),
        **options: Any,
    ) -> None:
        super().__init__(root, crop=crop, val_size=val_size, **options)

    def split(self, name: Split) -> LabelledImages:
        root = Path(self.hparams["root"])
        images = find(root / "leftImg8bit" / name, "*/*_leftImg8bit.png")
        annotations = root / "gtFine" / name
        train_ids = any(annotations.glob("*/*_gtFine_labelTrainIds.png"))
        suffix = "_gtFine_labelTrainIds.png" if train_ids else "_gtFine_labelIds.png"

        def label_of(image: Path) -> Path:
            return annotations / image.parent.name / image.name.replace("_leftImg8bit.png", suffix)

        return LabelledImages(pair(images, label_of), own_ids(self.classes) if train_ids else class_of_label_id())


def class_of_label_id() -> dict[int, int]:
    return dict.fromkeys(range(LABEL_IDS), IGNORE) | {value: i for i, value in enumerate(TRAINED)}
