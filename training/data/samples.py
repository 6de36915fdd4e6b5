"""Images on disk as samples, labelled or not: found, paired, read and checked. No data set's layout is known here.

What cannot be used raises ImageFolderError, whose text names the folder or file.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError
from torch.utils.data import Dataset

from transkd_ros.bags.image_folder import FramePath, ImageFolderError, read_image, read_label
from transkd_ros.model.labels import LabelTable

IGNORE = 255
CHECKED = 400
"""How many labels of a split are read before training starts: all of a small data set, some of a large one."""


def find(folder: Path, pattern: str) -> list[Path]:
    """The files below `folder` that match, sorted by path; an error for a missing folder or no match."""
    if not folder.is_dir():
        raise ImageFolderError(f"{folder}: no such folder; is --data.init_args.root the data set's folder?")
    paths = sorted(folder.glob(pattern))
    if not paths:
        raise ImageFolderError(f"{folder}: holds no {pattern}")
    return paths


def pair(images: Iterable[Path], label_of: Callable[[Path], Path]) -> list[FramePath]:
    """Each image with its label; an error for the first that lacks one."""
    pairs = [FramePath(image, label_of(image)) for image in images]
    for image, label in pairs:
        if label is not None and not label.is_file():
            raise ImageFolderError(f"no label for {image}: expected {label}")
    return pairs


def own_ids(classes: int) -> dict[int, int]:
    """The stored values of labels that hold class ids as they are, and IGNORE."""
    return {value: value for value in (*range(classes), IGNORE)}


def image_size(path: Path) -> tuple[int, int]:
    """(H, W) of an image file, without decoding it."""
    try:
        with Image.open(path) as header:
            return header.height, header.width
    except UnidentifiedImageError as error:
        raise ImageFolderError(f"{path}: not an image (broken or unknown format)") from error


class Samples(Dataset, ABC):
    """Pairs of image (H, W, 3) uint8 RGB and labels (H, W) uint8 class ids, IGNORE where there is no class."""

    @abstractmethod
    def __len__(self) -> int: ...

    def check(self) -> None:
        """Raise ImageFolderError, before training starts, for what cannot be used."""


class LabelledImages(Samples):
    """Images with a label file each.

    `class_of` says which class each value stored in a label file is; any other value is an error, as is a label of
    another size than its image. With `table`, images of colours are read by those of its classes. `keep` holds what was
    read in memory: for data sets that fit there.
    """

    def __init__(
        self,
        pairs: list[FramePath],
        class_of: Mapping[int, int],
        table: LabelTable | None = None,
        keep: bool = False,
    ) -> None:
        self.pairs, self.table, self.keep = pairs, table, keep
        self.known = np.zeros(256, bool)
        self.known[list(class_of)] = True
        self.class_of = np.full(256, IGNORE, np.uint8)
        self.class_of[list(class_of)] = list(class_of.values())
        self._kept: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if index in self._kept:
            return self._kept[index]
        image = _read_rgb(self.pairs[index].image)
        sample = image, self._read_labels(index, image.shape[:2])
        if self.keep:
            self._kept[index] = sample
        return sample

    def check(self, most: int = CHECKED) -> None:
        """Read up to `most` labels, evenly spread, so that unusable ones are refused before training starts."""
        for index in spread(len(self), most):
            self._read_labels(index, image_size(self.pairs[index].image))

    def _read_labels(self, index: int, size: tuple[int, ...]) -> np.ndarray:
        path = self.pairs[index].label
        assert path is not None  # samples are labelled
        stored = read_label(path, (size[0], size[1]), self.table)
        values = np.flatnonzero(np.bincount(stored.ravel(), minlength=256))
        if unknown := values[~self.known[values]].tolist():
            known = np.flatnonzero(self.known).tolist()
            raise ImageFolderError(f"{path}: unknown class ids {unknown}; known are {known}")
        return cv2.LUT(stored, self.class_of)


class UnlabelledImages(Samples):
    """Image files without labels: IGNORE everywhere."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        image = _read_rgb(self.paths[index])
        return image, np.full(image.shape[:2], IGNORE, np.uint8)

    def check(self, most: int = CHECKED) -> None:
        """Read the headers of up to `most` images, evenly spread."""
        for index in spread(len(self), most):
            image_size(self.paths[index])


def _read_rgb(path: Path) -> np.ndarray:
    return cv2.cvtColor(read_image(path), cv2.COLOR_BGR2RGB)


def spread(count: int, most: int) -> list[int]:
    """Up to `most` of `count` indices, from the first to the last."""
    return np.linspace(0, count - 1, min(most, count), dtype=int).tolist()
