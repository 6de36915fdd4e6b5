"""Drives without a label, as a data set of their own, which labelled images may be mixed into."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset, Dataset

from training.data.base import SegmentationData, Split
from training.data.extraction import FramesError, Unlabelled, extract, part_of
from training.data.folder import Folder
from training.data.samples import Samples, UnlabelledImages
from training.soft_labels import SoftLabels


class Drives(SegmentationData):
    """Frames of bags and image folders: what a robot sees.

    `unlabelled.part` of every drive is trained on, and `val_part`, another one, validated: against what the stored
    teacher says of its frames, so that `val_miou` is the agreement with the teacher. `labels` is the class table.
    `labelled`, a folder as `Folder` reads it, has images with labels to train on in its `train/`; `unlabelled.ratio` of
    an epoch is then of the drives. Options: those of SegmentationData; `proximity` has no meaning here.
    """

    def __init__(
        self,
        labels: str,
        unlabelled: Unlabelled,
        val_part: tuple[float, float] = (0.8, 0.9),
        labelled: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(None, unlabelled=unlabelled, **options)
        self.labels = labels

    def split(self, name: Split) -> Samples:
        assert self.unlabelled is not None
        if name == "train" and self.hparams["labelled"]:
            return Folder(self.hparams["labelled"], self.labels).split(name)
        part = self.unlabelled.part if name == "train" else tuple(self.hparams["val_part"])
        paths = [frame.path for frame in part_of(extract(self.unlabelled), part)]
        if not paths:
            raise FramesError(
                f"the part {part[0]:g} to {part[1]:g} of {', '.join(self.unlabelled.sources)} holds no frame: choose "
                "another part, more frames (every, most), or a longer drive"
            )
        return UnlabelledImages(paths) if name == "train" else TaughtImages(paths)

    def _unlabelled_samples(self) -> UnlabelledImages | None:
        return super()._unlabelled_samples() if self.hparams["labelled"] else None  # else they are all that there is

    @property
    def frames(self) -> Dataset:
        return ConcatDataset([super().frames, self.val_set])

    def use_soft_labels(self, store: SoftLabels) -> None:
        super().use_soft_labels(store)
        assert isinstance(self.val_set, TaughtImages)
        self.val_set.store = store


class TaughtImages(UnlabelledImages):
    """Images whose labels are what a stored teacher holds most likely, (h, w) uint8 of its own, smaller size.

    Before it has a `store`, IGNORE everywhere.
    """

    store: SoftLabels | None = None

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image, unknown = super().__getitem__(index)
        return image, unknown if self.store is None else self.store.of(image).argmax(0).astype(np.uint8)
