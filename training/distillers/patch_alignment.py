"""Patch embeddings of student and teacher: alignment (PEA), global-local mixer (GL-Mixer), embedding assistant (EA).

TransKD, arXiv 2202.13393v4. A stage's patch embedding is the token sequence (B, tokens, C) right after its overlapping
convolution and LayerNorm. Stage maps are the business of `training.distillers.feature_fusion`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.models.pvt_v2 import OverlapPatchEmbed
from torch import Tensor, nn
from torch.nn import functional as F

from training.distillers.base import DistillerError


class PatchProjection(nn.ModuleList):
    """One linear layer per stage, from the student's width to the teacher's."""

    def __init__(self, student_widths: Sequence[int], teacher_widths: Sequence[int]) -> None:
        super().__init__(nn.Linear(*pair) for pair in zip(student_widths, teacher_widths, strict=True))

    def forward(self, patches: Sequence[Tensor]) -> list[Tensor]:
        """Token sequences (B, tokens, student width), one per stage, as (B, tokens, teacher width)."""
        return [linear(tokens) for linear, tokens in zip(self, patches, strict=True)]


class GLMixer(nn.Module):
    """Global and local context of the last stage's tokens, weighed by two learned scalars and added, without residual.

    Global: self-attention of 8 heads. Local: a gated convolution of kernel 3 along the token axis. Both scalars start
    at 1 **[ours]**.
    """

    def __init__(self, width: int, heads: int = 8) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.content = nn.Conv1d(width, width, 3, padding=1)
        self.gate = nn.Conv1d(width, width, 3, padding=1)
        self.alpha = nn.Parameter(torch.ones(()))
        self.beta = nn.Parameter(torch.ones(()))

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, tokens, width) to the same shape: α·MHSA(E) + β·(Conv(E) ⊙ σ(Conv(E)))."""
        attended, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        sequence = tokens.transpose(1, 2)
        local = self.content(sequence) * self.gate(sequence).sigmoid()
        return self.alpha * attended + self.beta * local.transpose(1, 2)


class EmbeddingAssistant(nn.Module):
    """A patch embedding of the teacher's width beside the student's own, added to its projection: λ·p + μ·A.

    `stage` counts from 1: the first cuts 7×7 patches with stride 4 out of the image, the others 3×3 with stride 2 out
    of the student's map of the stage before. λ starts at 0.1·stage and μ at 0.1·(stage + 4).
    """

    def __init__(self, stage: int, given_width: int, teacher_width: int) -> None:
        super().__init__()
        patch, stride = (7, 4) if stage == 1 else (3, 2)
        self.embed = OverlapPatchEmbed(patch, stride, given_width, teacher_width)
        self.own = nn.Parameter(torch.tensor(0.1 * stage))
        self.assistance = nn.Parameter(torch.tensor(0.1 * (stage + 4)))

    def forward(self, projected: Tensor, given: Tensor) -> Tensor:
        """Projected tokens (B, tokens, teacher width), assisted by what the stage was given (B, given width, h, w)."""
        return self.own * projected + self.assistance * self.embed(given).flatten(1, 2)


def patch_loss(projected: Sequence[Tensor], teacher: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """PEA, a scalar in float32: the weighted sum over stages of the mean squared difference of (B, tokens, C).

    Raises DistillerError where the sequences of a stage are not of one length.
    """
    losses = []
    for stage, (student, target, weight) in enumerate(zip(projected, teacher, weights, strict=True), 1):
        if student.shape[1] != target.shape[1]:
            raise DistillerError(
                f"stage {stage}: the student has {student.shape[1]} patches and the teacher {target.shape[1]}; "
                "patch alignment needs encoders of equal strides"
            )
        losses.append(weight * F.mse_loss(student.float(), target.float()))
    return torch.stack(losses).sum()
