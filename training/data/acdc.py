"""ACDC, driving in fog, at night, in rain and in snow, with the 19 classes of Cityscapes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from training.data.base import SegmentationData, Split
from training.data.samples import LabelledImages, find, own_ids, pair
from training.sizes import ImageSize

Condition = Literal["fog", "night", "rain", "snow"]


class ACDC(SegmentationData):
    """`root` holds `rgb_anon/CONDITION/SPLIT/*/*_rgb_anon.png` and `gt/CONDITION/SPLIT/*/*_gt_labelTrainIds.png`.

    `conditions` are those to train and validate on. Options: those of SegmentationData.
    """

    labels = "cityscapes"

    def __init__(
        self,
        root: str,
        conditions: tuple[Condition, ...] = ("fog", "night", "rain", "snow"),
        crop: ImageSize = ImageSize(512, 1024),
        val_size: ImageSize = ImageSize(512, 1024),
        **options: Any,
    ) -> None:
        super().__init__(root, crop=crop, val_size=val_size, **options)

    def split(self, name: Split) -> LabelledImages:
        root = Path(self.hparams["root"])
        images = [
            image
            for condition in self.hparams["conditions"]
            for image in find(root / "rgb_anon" / condition / name, "*/*_rgb_anon.png")
        ]

        def label_of(image: Path) -> Path:
            folder = root / "gt" / image.parent.relative_to(root / "rgb_anon")
            return folder / image.name.replace("_rgb_anon.png", "_gt_labelTrainIds.png")

        return LabelledImages(pair(images, label_of), own_ids(self.classes))
