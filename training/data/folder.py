"""A data set that is two folders: images, and label masks (single-channel PNG of class ids) with the same names."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from torch.utils.data import Dataset

from transkd_ros.image_folder import ImageFolderError, list_frames, read_image, read_label


class ImageLabelFolder(Dataset):
    """Pairs of image (H, W, 3) uint8 RGB and labels (H, W) uint8, kept in memory after the first read.

    `classes` is the number of class ids; `ignore_id` is no class. Raises ImageFolderError at once for a missing
    folder, no images, or an image without labels; on reading, for files that cannot be decoded, differ in size or hold
    other ids.
    """

    def __init__(self, images: Path, labels: Path, classes: int, ignore_id: int = 255) -> None:
        self.frames = list_frames(images, labels)
        self.known = [*range(classes), ignore_id]
        self._cache: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if index not in self._cache:
            self._cache[index] = self._read(index)
        return self._cache[index]

    def _read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        paths = self.frames[index]
        assert paths.label is not None  # list_frames was given a folder of labels
        image = cv2.cvtColor(read_image(paths.image), cv2.COLOR_BGR2RGB)
        labels = read_label(paths.label, image.shape[:2])
        if (unknown := np.setdiff1d(labels, self.known)).size:
            raise ImageFolderError(f"{paths.label}: unknown class ids {unknown.tolist()}; known are {self.known}")
        return image, labels
