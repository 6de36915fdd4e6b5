"""Rendered scenes as a training set: each index is one frame of a drive of its own."""

from __future__ import annotations

import numpy as np
from torch.utils.data import Dataset

from transkd_ros.scenes import Drive


class RenderedScenes(Dataset):
    """`count` pairs of image (H, W, 3) uint8 RGB and labels (H, W) uint8 in CamVid's 11 classes, rendered when read."""

    def __init__(self, count: int, size: tuple[int, int] = (360, 480)) -> None:
        self.count, self.size = count, size
        self._cache: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if index not in self._cache:
            self._cache[index] = Drive(index, self.size).frame(index % 50)
        return self._cache[index]
