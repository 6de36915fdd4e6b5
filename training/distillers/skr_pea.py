"""SKR+PEA, the first version of TransKD (arXiv 2202.13393v1)."""

from __future__ import annotations

from training.distillers.transkd import TransKD


class SKRPEA(TransKD):
    """Selective kernel review and patch embedding alignment.

    The blocks are those of TransKD's base variant; the patch embeddings of all stages weigh the same **[ours]**.
    `feature_weight` and `patch_weight` multiply the two losses.
    """

    def __init__(self, feature_weight: float = 1.0, patch_weight: float = 1.0) -> None:
        super().__init__("base", feature_weight, patch_weight, (1.0, 1.0, 1.0, 1.0))
