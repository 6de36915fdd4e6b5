"""NYUv2 (NYU Depth v2), 40 classes, colour images only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.data.base import SegmentationData, Split
from training.data.samples import IGNORE, LabelledImages
from training.sizes import ImageSize
from transkd_ros.bags.image_folder import list_frames


class NYUv2(SegmentationData):
    """`root` holds `train/` and `test/`, each with a folder of images and one of labels with the same names.

    Labels are 8-bit files that hold 0 where unlabelled and 1 to 40 for the classes. The data set itself is a .mat file,
    so folders are called what its converter called them: `images` and `annotations` name them. The test split (654
    images) is for validation. Options: those of SegmentationData.
    """

    labels = "nyuv2"

    def __init__(
        self,
        root: str,
        images: str = "image",
        annotations: str = "label",
        crop: ImageSize = ImageSize(480, 640),
        val_size: ImageSize = ImageSize(480, 640),
        **options: Any,
    ) -> None:
        super().__init__(root, crop=crop, val_size=val_size, **options)

    def split(self, name: Split) -> LabelledImages:
        folder = Path(self.hparams["root"]) / {"train": "train", "val": "test"}[name]
        pairs = list_frames(folder / self.hparams["images"], folder / self.hparams["annotations"])
        return LabelledImages(pairs, {0: IGNORE, IGNORE: IGNORE} | {i + 1: i for i in range(self.classes)})
