"""A data set of one's own: two folders a split, images, and label images with the same names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from training.data.base import SegmentationData, Split
from training.data.samples import IGNORE, LabelledImages, own_ids
from transkd_ros.bags.image_folder import ImageFolderError, list_frames
from transkd_ros.model.labels import LabelTable


class Folder(SegmentationData):
    """`root` holds `train/` and `val/`, each with `images/` and `labels/` of the same names.

    A label image holds class ids (single-channel or palette) or the colours of the class table. `labels` names the
    table in config/labels, or a YAML file of one. Options: those of SegmentationData.
    """

    def __init__(self, root: str, labels: str, **options: Any) -> None:
        super().__init__(root, **options)
        self.labels = labels

    def split(self, name: Split) -> LabelledImages:
        root = Path(self.hparams["root"])
        folder = root / name
        if missing := [kind for kind in ("images", "labels") if not (folder / kind).is_dir()]:
            raise ImageFolderError(
                f"{folder / missing[0]}: no such folder; {root} must hold train/ and val/, each with images/ and "
                "labels/, as python -m training.data.convert writes them"
            )
        table = LabelTable.load(self.labels)
        ids = own_ids(self.classes) | {table.ignore_id: IGNORE}
        return LabelledImages(list_frames(folder / "images", folder / "labels"), ids, table)
