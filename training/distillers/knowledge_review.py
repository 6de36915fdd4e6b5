"""Knowledge Review: stage maps fused from coarse to fine by spatial attention, and compared (arXiv 2104.09044).

The walk and the hierarchical context loss are in `training.distillers.feature_fusion`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from training.distillers.base import Distiller
from training.distillers.feature_fusion import MID_WIDTH, FusionWalk, hierarchical_context_loss
from training.distillers.maps import Standardise
from training.taps import Taps, Widths


class SpatialAttention(nn.Module):
    """ABF's way to merge a stage's own map and the up-sampled fused map of the deeper one: position by position."""

    def __init__(self) -> None:
        super().__init__()
        self.attend = nn.Sequential(nn.Conv2d(2 * MID_WIDTH, 2, 1), nn.Sigmoid())

    def forward(self, own: Tensor, deeper: Tensor) -> Tensor:
        """a·own + b·deeper, each (B, 64, h, w), with attention maps a and b (B, 1, h, w), each between 0 and 1."""
        a, b = self.attend(torch.cat([own, deeper], 1)).chunk(2, 1)
        return a * own + b * deeper


class KnowledgeReview(Distiller):
    """Attention-based fusion (ABF) of the student's stages under the hierarchical context loss (HCL).

    Works between any two networks. `weight` multiplies the loss; it, and the mid width of 64 channels, which is that of
    cross selective fusion, are **[ours]**. So is it to `standardise` the teacher's maps by running statistics: as they
    are, the largest channels and stages decide what is learned. The paper compares maps as they are.
    """

    def __init__(self, weight: float = 1.0, standardise: bool = True) -> None:
        super().__init__()
        self.weight, self.standardise = weight, standardise

    def build(self, student: Widths, teacher: Widths) -> None:
        self.fusion = FusionWalk(student.stages, teacher.stages, SpatialAttention)
        target = Standardise if self.standardise else nn.Identity
        self.targets = nn.ModuleList(target(width) for width in teacher.stages)

    def forward(self, student: Taps, teacher: Taps, labels: Tensor) -> dict[str, Tensor]:
        """{"review": scalar} from the four stage maps (B, C, h, w) on both sides; labels are not read."""
        targets = [target(stage) for target, stage in zip(self.targets, teacher.stages, strict=True)]
        return {"review": self.weight * hierarchical_context_loss(self.fusion(student.stages), targets)}
