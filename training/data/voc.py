"""Pascal VOC 2012, 21 classes with the background, and its extension by SBD (SegmentationClassAug)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.data.base import SegmentationData, Split
from training.data.samples import LabelledImages, find, own_ids, pair
from training.sizes import ImageSize
from transkd_ros.bags.image_folder import ImageFolderError


class VOC(SegmentationData):
    """`root` (VOCdevkit/VOC2012) holds `JPEGImages/*.jpg`, `SegmentationClass/*.png` and
    `ImageSets/Segmentation/{train,val}.txt`.

    With `augmented`, training takes every image labelled in `SegmentationClassAug/` that is not in val.txt (10582 of
    them). The images are of many shapes, and are not stretched for validation. Options: those of SegmentationData.
    """

    labels = "voc"

    def __init__(
        self,
        root: str,
        augmented: bool = False,
        crop: ImageSize = ImageSize(512, 512),
        val_size: ImageSize = ImageSize(512, 512),
        val_keep_aspect: bool = True,
        **options: Any,
    ) -> None:
        super().__init__(root, crop=crop, val_size=val_size, val_keep_aspect=val_keep_aspect, **options)

    def split(self, name: Split) -> LabelledImages:
        root = Path(self.hparams["root"])
        labels = root / "SegmentationClass"
        names = _listed(root, name)
        if name == "train" and self.hparams["augmented"]:
            labels = root / "SegmentationClassAug"
            held_out = set(_listed(root, "val"))
            names = [path.stem for path in find(labels, "*.png") if path.stem not in held_out]
        images = {path.stem: path for path in find(root / "JPEGImages", "*.jpg")}
        if missing := [image for image in names if image not in images]:
            raise ImageFolderError(f"{root}/JPEGImages/{missing[0]}.jpg: no such file, but the {name} split names it")
        pairs = pair([images[image] for image in names], lambda image: labels / f"{image.stem}.png")
        return LabelledImages(pairs, own_ids(self.classes))


def _listed(root: Path, name: str) -> list[str]:
    """The names in a list of images, in its order."""
    path = find(root / "ImageSets" / "Segmentation", f"{name}.txt")[0]
    names = path.read_text(encoding="utf-8").split()
    if not names:
        raise ImageFolderError(f"{path}: names no image")
    return names
