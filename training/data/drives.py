"""Drives without a label, as a data set of their own: the teacher is all that there is to learn from."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.utils.data import ConcatDataset, Dataset

from training.data.base import SegmentationData, Split
from training.data.extraction import FramesError, Unlabelled, extract, part_of
from training.data.samples import Samples, UnlabelledImages
from training.soft_labels import SoftLabels


class Drives(SegmentationData):
    """Frames of bags and image folders, and no label at all.

    `unlabelled.part` of every drive is trained on, and `val_part`, another one, validated: against what the stored
    teacher says of its frames, so that `val_miou` is the agreement with the teacher. `labels` is the class table.
    Options: those of SegmentationData; `unlabelled.ratio` and `proximity` have no meaning here.
    """

    def __init__(
        self, labels: str, unlabelled: Unlabelled, val_part: tuple[float, float] = (0.8, 0.9), **options: Any
    ) -> None:
        super().__init__(None, unlabelled=unlabelled, **options)
        self.labels = labels

    def split(self, name: Split) -> Samples:
        assert self.unlabelled is not None
        part = self.unlabelled.part if name == "train" else tuple(self.hparams["val_part"])
        paths = [frame.path for frame in part_of(extract(self.unlabelled), part)]
        if not paths:
            raise FramesError(
                f"the part {part[0]:g} to {part[1]:g} of {', '.join(self.unlabelled.sources)} holds no frame: choose "
                "another part, more frames (every, most), or a longer drive"
            )
        return UnlabelledImages(paths) if name == "train" else TaughtImages(paths)

    def _unlabelled_samples(self) -> None:
        return None  # there is nothing else to mix them into

    @property
    def frames(self) -> Dataset:
        return ConcatDataset([self.train_set, self.val_set])

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
