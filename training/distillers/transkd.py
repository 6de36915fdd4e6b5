"""TransKD: a transformer student follows a transformer teacher's stage maps and patch embeddings (arXiv 2202.13393).

The blocks are in `feature_fusion` and `patch_alignment`; here they become the four variants of the method.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from training.distillers.base import Distiller
from training.distillers.feature_fusion import ChannelSelection, FusionWalk, hierarchical_context_loss
from training.distillers.patch_alignment import EmbeddingAssistant, GLMixer, PatchProjection, patch_loss
from training.taps import Taps, Widths

PATCH_WEIGHTS = (0.1, 0.1, 0.5, 1.0)
"""Of the four stages' patch embeddings, fine to coarse: the paper's."""


class TransKD(Distiller):
    """Cross selective fusion under the hierarchical context loss, and patch embedding alignment.

    `variant`: "base" is that; "gl" mixes the last stage's patches before their projection (GL-Mixer); "ea" adds a
    second set of patch embeddings to the projections (Embedding Assistant); "skr_pea" is the paper's first version
    (2202.13393v1, SKR+PEA): the blocks of "base", and the patch embeddings of all stages weigh the same **[ours]**.
    `feature_weight` and `patch_weight` multiply the two losses, `patch_weights` the stages of the second, fine to
    coarse; without them the variant's count. The defaults are the paper's.
    """

    needs_patches = True

    def __init__(
        self,
        variant: Literal["base", "gl", "ea", "skr_pea"] = "base",
        feature_weight: float = 1.0,
        patch_weight: float = 1.0,
        patch_weights: tuple[float, float, float, float] | None = None,
    ) -> None:
        super().__init__()
        self.variant = variant
        self.feature_weight, self.patch_weight = feature_weight, patch_weight
        self.patch_weights = patch_weights or ((1.0,) * 4 if variant == "skr_pea" else PATCH_WEIGHTS)

    def build(self, student: Widths, teacher: Widths) -> None:
        self.fusion = FusionWalk(student.stages, teacher.stages, ChannelSelection)
        self.projection = PatchProjection(student.patches, teacher.patches)
        if self.variant == "gl":
            self.mixer = GLMixer(student.patches[-1])
        if self.variant == "ea":
            given = (3, *student.stages[:-1])
            widths = enumerate(zip(given, teacher.patches, strict=True), 1)
            self.assistants = nn.ModuleList(EmbeddingAssistant(stage, *pair) for stage, pair in widths)

    def forward(self, student: Taps, teacher: Taps, labels: Tensor) -> dict[str, Tensor]:
        """{"feature": scalar, "patch": scalar} from stage maps, patch embeddings and the image; labels are not read."""
        feature = hierarchical_context_loss(self.fusion(student.stages), teacher.stages)
        patch = patch_loss(self.project_patches(student), teacher.patches, self.patch_weights)
        return {"feature": self.feature_weight * feature, "patch": self.patch_weight * patch}

    def project_patches(self, student: Taps) -> list[Tensor]:
        """The student's patch embeddings in the teacher's widths, four of (B, tokens, C), as the variant makes them."""
        patches = list(student.patches)
        if self.variant == "gl":
            patches[-1] = self.mixer(patches[-1])
        projected = self.projection(patches)
        if self.variant == "ea":
            given = (student.image, *student.stages[:-1])
            return [assistant(*pair) for assistant, *pair in zip(self.assistants, projected, given, strict=True)]
        return projected


class SKRPEA(TransKD):
    """What recipes called the variant "skr_pea" before it was one; the name is kept for them."""

    def __init__(self, feature_weight: float = 1.0, patch_weight: float = 1.0) -> None:
        super().__init__("skr_pea", feature_weight, patch_weight)
