"""Feature maps of student and teacher: cross selective fusion (CSF), and the hierarchical context loss (HCL).

TransKD, arXiv 2202.13393: the same blocks in v1 (there called selective kernel fusion and review) and in v4. The walk
over the stages takes another way to merge two maps as well: Knowledge Review brings its own. Patch embeddings are the
business of `training.distillers.patch_alignment`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.distillers.maps import BatchNorm
from training.networks import resize

MID_WIDTH = 64
SQUEEZE_RATIO, SQUEEZE_FLOOR = 16, 32
POOL_SIZES = (4, 2, 1)
"""Of the hierarchical context loss, beside the full map."""


class ChannelSelection(nn.Module):
    """CSF's way to merge a stage's own map and the up-sampled fused map of the deeper one: channel by channel."""

    def __init__(self, width: int = MID_WIDTH) -> None:
        super().__init__()
        squeezed = max(width // SQUEEZE_RATIO, SQUEEZE_FLOOR)
        self.squeeze = nn.Sequential(nn.Conv2d(width, squeezed, 1, bias=False), BatchNorm(squeezed), nn.ReLU())
        self.heads = nn.Conv2d(squeezed, 2 * width, 1)  # both linear heads, a's channels first

    def shares(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Shares a and b = 1 - a, each (B, width, 1, 1), of the two maps' pooled sum (B, width, 1, 1)."""
        own, deeper = self.heads(self.squeeze(pooled)).unflatten(1, (2, -1)).softmax(1).unbind(1)
        return own, deeper

    def forward(self, own: Tensor, deeper: Tensor) -> Tensor:
        """a·own + b·deeper, each (B, width, h, w). Pooling is linear: the sum of the maps never exists."""
        share, _ = self.shares(own.mean((2, 3), keepdim=True) + deeper.mean((2, 3), keepdim=True))
        return torch.lerp(deeper, own, share.to(own.dtype))


class FusionWalk(nn.Module):
    """The walk from the deepest stage to the finest, each fused map going into the next, merged as `select` does.

    `select` makes a module that takes a stage's own map and the deeper fused one, each (B, 64, h, w), and gives the
    fused one. The weights are left in the default memory format, so that every map keeps that of the stage map it comes
    from: MiT and PVTv2, student and teacher, give theirs out contiguous even where the network is in channels_last.
    """

    stages: Any

    def __init__(
        self, student_widths: Sequence[int], teacher_widths: Sequence[int], select: Callable[[], nn.Module]
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList()
        for student, teacher in zip(student_widths, teacher_widths, strict=True):
            stage = nn.ModuleDict()
            stage["reduce"] = nn.Sequential(nn.Conv2d(student, MID_WIDTH, 1, bias=False), BatchNorm(MID_WIDTH))
            if len(self.stages) < len(student_widths) - 1:  # there is a deeper one
                stage["select"] = select()
            convolution = nn.Conv2d(MID_WIDTH, teacher, 3, padding=1, bias=False)
            stage["expand"] = nn.Sequential(convolution, BatchNorm(teacher))
            self.stages.append(stage)

    def forward(self, stages: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The student's maps (B, student width, h, w), fine to coarse, in the teacher's widths at the same sizes."""
        return tuple(block["expand"](fused) for block, fused in zip(self.stages, self.fused(stages), strict=True))

    def fused(self, stages: Sequence[Tensor]) -> list[Tensor]:
        """The fused maps (B, 64, h, w) of the student's, fine to coarse; the deepest one is merged with nothing."""
        maps: list[Tensor] = []
        for block, stage in zip(reversed(self.stages), reversed(stages), strict=True):
            own = block["reduce"](stage)
            if maps:
                own = block["select"](own, F.interpolate(maps[0], own.shape[-2:], mode="nearest"))
            maps.insert(0, own)
        return maps


def hierarchical_context_loss(student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
    """HCL, a scalar in float32: the sum over stages of `context_loss`. Maps (B, C, h, w), fine to coarse."""
    return torch.stack([context_loss(*maps) for maps in zip(student, teacher, strict=True)]).sum()


def context_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """The weighted mean of the squared differences of two maps (B, C, h, w), whole and pooled to 4×4, 2×2 and 1×1.

    The full map weighs 1 and each pool size half as much as the one before; a pool size that is not smaller than the
    map's height is left out and halves nothing, as in the official code. Where the sizes differ, the student's map is
    first brought to the teacher's, bilinearly **[ours]**.
    """
    student, teacher = resize(student, teacher.shape[-2:]).float(), teacher.float()
    losses = [F.mse_loss(student, teacher)]
    for size in POOL_SIZES:
        if size < teacher.shape[-2]:
            losses.append(F.mse_loss(F.adaptive_avg_pool2d(student, size), F.adaptive_avg_pool2d(teacher, size)))
    weights = [0.5**index for index in range(len(losses))]
    return torch.stack([weight * loss for weight, loss in zip(weights, losses, strict=True)]).sum() / sum(weights)
