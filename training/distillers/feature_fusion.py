"""Feature maps of student and teacher: cross selective fusion (CSF), and the hierarchical context loss (HCL).

TransKD, arXiv 2202.13393: the same blocks in v1 (there called selective kernel fusion and review) and in v4. The walk
over the stages takes another way to merge two maps as well: Knowledge Review brings its own. Patch embeddings are the
business of `training.distillers.patch_alignment`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.networks import resize

MID_WIDTH = 64
SQUEEZE_RATIO, SQUEEZE_FLOOR = 16, 32
POOL_SIZES = (4, 2, 1)
"""Of the hierarchical context loss, beside the full map."""


class BatchNorm(nn.BatchNorm2d):
    """Batch norm of maps (B, C, h, w) that also trains on a single value per channel (a batch of one at 1×1).

    One value has no variance: it is normalised with the running statistics, which it leaves alone. Scale and shift are
    trained by every step, so no parameter goes without a gradient, as DistributedDataParallel demands. **[ours]**
    """

    def forward(self, maps: Tensor) -> Tensor:
        if self.training and maps.numel() > maps.shape[1]:
            return super().forward(maps)
        return F.batch_norm(maps, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class Standardise(BatchNorm):
    """A teacher's maps (B, C, h, w) with mean 0 and variance 1 in every channel, by running statistics **[ours]**.

    In train mode a batch counts first. The statistics are the mean over all batches: those of a teacher do not drift,
    and what a student is compared with does not jump with the batch.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, affine=False, momentum=None)

    def forward(self, maps: Tensor) -> Tensor:
        maps = maps.float()
        if self.training:
            super().forward(maps)
        return F.batch_norm(maps, self.running_mean, self.running_var, eps=self.eps)


class Selection(nn.Module):
    """How a stage's own map and the up-sampled fused map of the deeper one become one."""

    def merge(self, own: Tensor, deeper: Tensor) -> Tensor:
        """From two maps, each (B, 64, h, w), the fused one."""
        raise NotImplementedError


class ChannelSelection(Selection):
    """How much of a stage's own map and of the deeper one's a fused map takes, channel by channel."""

    def __init__(self, width: int = MID_WIDTH) -> None:
        super().__init__()
        squeezed = max(width // SQUEEZE_RATIO, SQUEEZE_FLOOR)
        self.squeeze = nn.Sequential(nn.Conv2d(width, squeezed, 1, bias=False), BatchNorm(squeezed), nn.ReLU())
        self.heads = nn.Conv2d(squeezed, 2 * width, 1)  # both linear heads, a's channels first

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Shares a and b = 1 - a, each (B, width, 1, 1), of the two maps' pooled sum (B, width, 1, 1)."""
        own, deeper = self.heads(self.squeeze(pooled)).unflatten(1, (2, -1)).softmax(1).unbind(1)
        return own, deeper

    def merge(self, own: Tensor, deeper: Tensor) -> Tensor:
        """a·own + b·deeper, each (B, width, h, w). Pooling is linear: the sum of the maps never exists."""
        share, _ = self(own.mean((2, 3), keepdim=True) + deeper.mean((2, 3), keepdim=True))
        return torch.lerp(deeper, own, share.to(own.dtype))


class StageFusion(nn.Module):
    """Fusion of one stage, cross selective by default; the deepest stage has no deeper one and only passes through."""

    def __init__(
        self,
        student_width: int,
        teacher_width: int,
        deepest: bool = False,
        select: type[Selection] = ChannelSelection,
    ) -> None:
        super().__init__()
        self.reduce = nn.Sequential(nn.Conv2d(student_width, MID_WIDTH, 1, bias=False), BatchNorm(MID_WIDTH))
        self.select = None if deepest else select()
        convolution = nn.Conv2d(MID_WIDTH, teacher_width, 3, padding=1, bias=False)
        self.expand = nn.Sequential(convolution, BatchNorm(teacher_width))

    def forward(self, stage: Tensor, deeper: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """From the student's map (B, student width, h, w) and the next deeper fused map (B, 64, h', w'):

        the map to compare with the teacher's (B, teacher width, h, w), and the fused map (B, 64, h, w).
        """
        fused = self.reduce(stage)
        if self.select is not None and deeper is not None:
            fused = self.select.merge(fused, F.interpolate(deeper, fused.shape[-2:], mode="nearest"))
        return self.expand(fused), fused


class FusionWalk(nn.Module):
    """The walk from the deepest stage to the finest, each fused map going into the next, merged as `select` does.

    The weights are left in the default memory format, so that every map keeps that of the stage map it comes from: MiT
    and PVTv2, student and teacher, give theirs out contiguous even where the network is in channels_last.
    """

    def __init__(self, student_widths: Sequence[int], teacher_widths: Sequence[int], select: type[Selection]) -> None:
        super().__init__()
        last = len(student_widths) - 1
        pairs = enumerate(zip(student_widths, teacher_widths, strict=True))
        self.stages = nn.ModuleList(StageFusion(student, teacher, i == last, select) for i, (student, teacher) in pairs)

    def forward(self, stages: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The student's maps (B, student width, h, w), fine to coarse, in the teacher's widths at the same sizes."""
        outputs: list[Tensor] = []
        fused = None
        for block, stage in zip(reversed(self.stages), reversed(stages), strict=True):
            output, fused = block(stage, fused)
            outputs.insert(0, output)
        return tuple(outputs)


class CrossSelectiveFusion(FusionWalk):
    """CSF: the walk with channel selection."""

    def __init__(self, student_widths: Sequence[int], teacher_widths: Sequence[int]) -> None:
        super().__init__(student_widths, teacher_widths, ChannelSelection)


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
