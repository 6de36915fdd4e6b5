"""Augmentation and sampling whose randomness depends on seed, epoch and sample alone, so that a resumed run sees
exactly what an uninterrupted one would have seen, with any number of workers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler
from torchvision import tv_tensors
from torchvision.transforms import v2


def augmentation(crop: tuple[int, int], zoom: tuple[float, float]) -> v2.Transform:
    """Random crop of a `zoom` share of the image's area, scaled to `crop` (H, W); flip; photometric jitter."""
    aspect = crop[1] / crop[0]
    return v2.Compose(
        [
            v2.RandomResizedCrop(crop, scale=zoom, ratio=(aspect / 1.15, aspect * 1.15), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomPhotometricDistort(p=0.5),
        ]
    )


class Augmented(Dataset):
    """Samples of `source`, augmented: image (3, h, w) uint8 and labels (h, w) uint8 tensors.

    Indexed by (index, seed), as `SeededSampler` gives them.
    """

    def __init__(self, source: Dataset, transform: v2.Transform) -> None:
        self.source, self.transform = source, transform

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, Tensor]:
        index, seed = item
        image, labels = self.source[index]
        with torch.random.fork_rng(devices=[]):  # v2 transforms draw from the global generator
            torch.manual_seed(seed)
            image, labels = self.transform(tv_tensors.Image(_channels_first(image)), tv_tensors.Mask(labels))
        return image.as_subclass(Tensor), labels.as_subclass(Tensor)


class Resized(Dataset):
    """Samples of `source` for validation: image (3, H, W) uint8 resized to `size`, labels as they are."""

    def __init__(self, source: Dataset, size: tuple[int, int]) -> None:
        self.source, self.resize = source, v2.Resize(size, antialias=True)

    def __len__(self) -> int:
        return len(self.source)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, labels = self.source[index]
        return self.resize(torch.from_numpy(_channels_first(image))), torch.from_numpy(labels)


class SeededSampler(Sampler[tuple[int, int]]):
    """A new permutation of `length` samples every epoch, each with a seed of its own for the augmentation."""

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed, self.epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        seeds = rng.integers(2**31, size=self.length)
        return zip(rng.permutation(self.length).tolist(), seeds.tolist(), strict=True)


def _channels_first(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image.transpose(2, 0, 1))
