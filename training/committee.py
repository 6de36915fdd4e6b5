"""A committee of teachers: the mean of what its members say of a frame, from both sides and at several scales."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms import v2

from training.networks import SIZE_DIVISOR, resize
from training.soft_labels import Annotators, SoftLabelError
from training.teachers import Teacher
from transkd_ros import cli
from transkd_ros.evaluate.metrics import ConfusionMatrix
from transkd_ros.model.labels import LabelTable


def class_weight(text: str) -> tuple[str, float]:
    """An argparse type: `pole=2.7`."""
    name, separator, factor = text.rpartition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text} is not CLASS=FACTOR, e.g. pole=2.7")
    return name, cli.positive_float(factor)


class Committee:
    """Teachers of the same classes, whose probabilities are averaged over the views of a frame.

    `size` (H, W) times each of `scales`, in multiples of SIZE_DIVISOR, is what they see. `weights` of classes multiply
    their probabilities, which are made to sum to one again, as class weights of a cross-entropy move a network's: what
    is thin is never likely pixel by pixel, and IoU rewards to say it earlier **[ours]**.

    Raises SoftLabelError for members that disagree about the classes.
    """

    def __init__(
        self,
        members: Sequence[Teacher],
        size: tuple[int, int],
        scales: Sequence[float] = (1.0,),
        flip: bool = True,
        weights: Mapping[str, float] | None = None,
    ) -> None:
        self.members, self.scales, self.flip, self.size = tuple(members), tuple(scales), flip, size
        tables = [_table_of(member) for member in members]
        for member, table in zip(members, tables, strict=True):
            if table.names != tables[0].names:
                raise SoftLabelError(
                    f"{member.source} knows other classes than {members[0].source} "
                    f"({', '.join(table.names[:4])} …); give it a --class-map"
                )
        self.labels = tables[0]
        self.weights = dict(weights or {})
        if unknown := [name for name in self.weights if name not in self.labels.names]:
            raise SoftLabelError(f"--class-weights: the teachers have no class {unknown[0]}")

    def __call__(self, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Mean probabilities (classes, *size) float32 of a frame (H, W, 3) uint8 RGB."""
        return self.ask(image, size)[0]

    @torch.no_grad()
    def ask(self, image: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, float]:
        """The same, and how much the views of members and scales disagree: their Jensen-Shannon divergence, the mean
        over the pixels, in shares of the largest that there is: 0 where all say the same, or only one is asked."""
        device = self.members[0].normalise.mean.device
        frame = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None].to(device)
        views = [self._look(member, frame, scale, size) for member in self.members for scale in self.scales]
        weights = torch.tensor([self.weights.get(name, 1.0) for name in self.labels.names], device=device)
        weighted = torch.stack(views).mean(0) * weights.view(-1, 1, 1)
        return (weighted / weighted.sum(0)).cpu().numpy(), _disagreement(torch.stack(views))

    def _look(self, member: Teacher, frame: Tensor, scale: float, size: tuple[int, int]) -> Tensor:
        view = v2.functional.resize(frame, [_divisible(side * scale) for side in self.size], antialias=True)
        views = torch.cat([view, view.flip(-1)]) if self.flip else view
        probabilities = member(views).logits.float().softmax(1)
        if self.flip:
            probabilities = (probabilities[:1] + probabilities[1:].flip(-1)) / 2
        smaller = all(have > want for have, want in zip(probabilities.shape[-2:], size, strict=True))
        return F.adaptive_avg_pool2d(probabilities, size)[0] if smaller else resize(probabilities, size)[0]

    def described(self, class_maps: Sequence[str | None], stride: int) -> Annotators:
        """What the store says of the committee."""
        teachers: list[dict[str, str | None]] = [
            {"source": member.source, "fingerprint": member.fingerprint(), "class_map": class_map}
            for member, class_map in zip(self.members, class_maps, strict=True)
        ]
        return Annotators(self.labels.to_json(), teachers, self.size, self.scales, self.flip, self.weights, stride)


def _disagreement(views: Tensor) -> float:
    """Of probabilities (views, classes, h, w)."""
    if len(views) == 1:
        return 0.0
    divergence = _entropy(views.mean(0, keepdim=True)).mean() - _entropy(views).mean()
    return max(0.0, float(divergence) / math.log(min(len(views), views.shape[1])))


def _entropy(probabilities: Tensor) -> Tensor:
    return -torch.special.xlogy(probabilities, probabilities).sum(1)


def _table_of(member: Teacher) -> LabelTable:
    if member.labels is None:
        raise SoftLabelError(f"{member.source} does not say what its classes are: give --labels or --class-map")
    return member.labels


def _divisible(side: float) -> int:
    return max(1, round(side / SIZE_DIVISOR)) * SIZE_DIVISOR


def scores(committee: Committee, samples: Any, progress: Callable[[], None]) -> dict[str, dict[str, Any]]:
    """mIoU and IoU by class that occurs (fractions), of "committee" and of each member alone, seen once."""
    views = {"committee": committee} | {
        member.source: Committee([member], committee.size, flip=False) for member in committee.members
    }
    names = committee.labels.names
    counts = {name: ConfusionMatrix(len(names), committee.labels.ignore_id) for name in views}
    for index in range(len(samples)):
        image, labels = samples[index]
        for name, view in views.items():
            counts[name].update(view(image, labels.shape).argmax(0).astype(np.uint8), labels)
        progress()
    return {
        name: {"miou": count.miou(), "iou": {n: v for n, v in zip(names, count.iou().tolist(), strict=True) if v == v}}
        for name, count in counts.items()
    }
