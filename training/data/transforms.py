"""Augmentation whose randomness depends on the sample's seed alone (see `loading.SeededSampler`), so that a resumed run
sees exactly what an uninterrupted one would have seen, with any number of workers."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from training.data.samples import IGNORE


def augmentation(
    crop: tuple[int, int],
    zoom: tuple[float, float] = (0.15, 1.0),
    scale: tuple[float, float] | None = None,
    shift: int = 0,
    photometric: float = 0.5,
) -> v2.Transform:
    """A random part of image and labels at the size `crop` (H, W), flipped half of the time, with colours jittered.

    The part is a `zoom` share of the image's area, stretched to `crop`; or, with `scale`, cut from the image scaled by
    a random factor of that range, 1 being where the whole image just fits into `crop`. `shift` moves it by up to so
    many pixels, and `photometric` is the probability of each of the colour distortions. What lies outside the image is
    black and labelled IGNORE.
    """
    height, width = crop
    aspect = width / height
    steps: list[v2.Transform] = [
        v2.ScaleJitter((width, height), scale, antialias=True)  # it wants the width first
        if scale
        else v2.RandomResizedCrop(crop, scale=zoom, ratio=(aspect / 1.15, aspect * 1.15), antialias=True)
    ]
    if scale or shift:
        outside = {tv_tensors.Image: 0, tv_tensors.Mask: IGNORE}
        steps.append(v2.RandomCrop(crop, padding=shift, pad_if_needed=True, fill=outside))
    steps.append(v2.RandomHorizontalFlip())
    if photometric:
        steps.append(v2.RandomPhotometricDistort(p=photometric))
    return v2.Compose(steps)


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


def _channels_first(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image.transpose(2, 0, 1))
