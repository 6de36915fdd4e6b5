"""What several methods do to logits and maps before they compare them: one size, one scale.

Each method's own blocks and losses stand in its own file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from training.networks import resize
from training.taps import Taps


def compared_logits(student: Taps, teacher: Taps, stride: int = 1) -> tuple[Tensor, Tensor]:
    """The logits of both, (B, classes, h, w) float32, made comparable: the only place where their sizes meet.

    The size is the teacher's, and at most the student's (the image's) over `stride`: the student comes down,
    bilinearly, to soft labels stored at a quarter of the size, and these are never blown up **[ours]**. Soft labels are
    log-probabilities; a method that does not make such of both sides itself has to make them of the student's.
    """
    full, shown = student.logits.shape[-2:], teacher.logits.shape[-2:]
    size = [min(side, -(-whole // stride)) for whole, side in zip(full, shown, strict=True)]
    return resize(student.logits.float(), size), resize(teacher.logits.float(), size)


def bounded_size(size: Sequence[int], positions: int) -> tuple[int, int]:
    """The largest (h, w) of about the aspect of `size` with at most `positions` positions; `size` if it has no more."""
    shrink = max(1.0, math.sqrt(math.prod(size) / positions))
    height, width = (min(positions, max(1, int(side / shrink))) for side in size)
    return height, width


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
