"""Augmentation whose randomness depends on the sample's seed alone (see `loading.SeededSampler`), so that a resumed run
sees exactly what an uninterrupted one would have seen, with any number of workers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from training.data.samples import IGNORE
from training.networks import SIZE_DIVISOR
from training.soft_labels import SoftLabels


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
        _ScaleJitter((width, height), scale, antialias=True)  # it wants the width first
        if scale
        else _RandomResizedCrop(crop, scale=zoom, ratio=(aspect / 1.15, aspect * 1.15), antialias=True)
    ]
    if scale or shift:
        outside = {tv_tensors.Image: 0, tv_tensors.Mask: IGNORE}
        steps.append(v2.RandomCrop(crop, padding=shift, pad_if_needed=True, fill=outside))
    steps.append(v2.RandomHorizontalFlip())
    if photometric:
        steps.append(v2.RandomPhotometricDistort(p=photometric))
    return v2.Compose(steps)


class _ScaleJitter(v2.ScaleJitter):
    """With labels that stay where the image is, see `_resized`."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if isinstance(inpt, tv_tensors.Mask):
            return _resized(inpt, params["size"])
        return super().transform(inpt, params)


class _RandomResizedCrop(v2.RandomResizedCrop):
    """With labels that stay where the image is, see `_resized`."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        if isinstance(inpt, tv_tensors.Mask):
            return _resized(v2.functional.crop(inpt, **params), self.size)
        return super().transform(inpt, params)


def _resized(mask: tv_tensors.Mask, size: Sequence[int]) -> tv_tensors.Mask:
    """A mask (H, W) of any type at `size`: of each new pixel what lies at its centre, where images are sampled as well.

    torchvision takes what lies at its upper left corner, and so moves labels by half a pixel.
    """
    rows, columns = (
        ((torch.arange(new) + 0.5) * (old / new)).long() for new, old in zip(size, mask.shape, strict=True)
    )
    return tv_tensors.wrap(mask.as_subclass(Tensor)[rows[:, None], columns], like=mask)


class Augmented(Dataset):
    """Samples of `source`, augmented: image (3, h, w) uint8 and labels (h, w) uint8 tensors.

    Indexed by (index, seed), as `SeededSampler` gives them. With a store of `soft` labels a sample has a third part,
    the frame's probabilities (classes, h/stride, w/stride) float32, cut, scaled and flipped as the image was; what lies
    outside the frame is uniform **[ours]**. Raises SoftLabelError for a frame that the store lacks.
    """

    def __init__(self, source: Dataset, transform: v2.Transform, soft: SoftLabels | None = None) -> None:
        self.source, self.transform, self.soft = source, transform, soft

    def __getitem__(self, item: tuple[int, int]) -> tuple[Tensor, ...]:
        index, seed = item
        image, labels = self.source[index]
        parts = [tv_tensors.Image(_channels_first(image)), tv_tensors.Mask(labels)]
        if self.soft is not None:
            parts.append(tv_tensors.Mask(_positions(labels.shape)))
        with torch.random.fork_rng(devices=[]):  # v2 transforms draw from the global generator
            torch.manual_seed(seed)
            changed = [part.as_subclass(Tensor) for part in self.transform(*parts)]
        if self.soft is not None:
            stride = self.soft.annotators.stride
            changed[2] = soft_labels_at(self.soft.of(image), changed[2], labels.shape, stride)
        return tuple(changed)


def _positions(size: tuple[int, int]) -> Tensor:
    """The number of each pixel of an image of `size` (H, W), counted from IGNORE + 1: what is filled in is none."""
    return torch.arange(size[0] * size[1], dtype=torch.int32).view(*size) + IGNORE + 1


def soft_labels_at(probabilities: np.ndarray, positions: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """The `probabilities` (classes, h, w) of an image of `size` (H, W), where an augmentation has put its pixels.

    `positions` (crop height, crop width) are what it made of `_positions(size)`. They are looked up bilinearly in the
    middle of every square of `stride` of them: (classes, crop height / stride, crop width / stride) float32.
    """
    height, width = size
    middles = torch.stack([_in_squares(positions, at, stride) for at in ((stride - 1) // 2, stride // 2)]) - IGNORE - 1
    inside = (middles >= 0).all(0)
    middles = middles.clamp_min(0)
    x = ((middles % width).float().mean(0) * 2 + 1) / width - 1
    y = ((middles // width).float().mean(0) * 2 + 1) / height - 1
    maps = torch.from_numpy(probabilities)[None].float()
    found = F.grid_sample(maps, torch.stack([x, y], -1)[None], padding_mode="border", align_corners=False)[0]
    return torch.where(inside, found, 1 / len(probabilities))


def _in_squares(positions: Tensor, at: int, stride: int) -> Tensor:
    """The position at row and column number `at` of every whole square of `stride`."""
    height, width = (side // stride * stride for side in positions.shape)
    return positions[at:height:stride, at:width:stride].long()


class Resized(Dataset):
    """Samples of `source` for validation: image (3, H, W) uint8 resized to `size`, labels as they are.

    With `keep_aspect` it is resized to what `fitted` gives: as large as fits into `size`, and not stretched.
    """

    def __init__(self, source: Dataset, size: tuple[int, int], keep_aspect: bool = False) -> None:
        self.source, self.size, self.keep_aspect = source, size, keep_aspect

    def __len__(self) -> int:
        return len(self.source)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, labels = self.source[index]
        size = fitted(labels.shape, self.size) if self.keep_aspect else self.size
        resized = v2.functional.resize(torch.from_numpy(_channels_first(image)), list(size), antialias=True)
        return resized, torch.from_numpy(labels)


def fitted(own: tuple[int, ...], size: tuple[int, int]) -> tuple[int, int]:
    """The largest (h, w) of the aspect ratio of `own` (H, W) within `size`, its sides the nearest multiples of
    SIZE_DIVISOR."""
    scale = min(most / side for most, side in zip(size, own, strict=True))
    height, width = (max(1, round(side * scale / SIZE_DIVISOR)) * SIZE_DIVISOR for side in own)
    return height, width


def _channels_first(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image.transpose(2, 0, 1))
