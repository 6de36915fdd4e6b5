"""CWD, channel-wise distillation: where in the image each class is seen, as a distribution (arXiv 2011.13256)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from training.distillers.base import Distiller
from training.taps import Taps


class CWD(Distiller):
    """KL divergence of the softened distributions over positions, one per class map, averaged over classes, times T².

    Works between any two networks that know the same classes; positions count whether labelled or not. `temperature` T
    softens both sides, `weight` multiplies the loss: the paper's values for logits. The logits are compared at the size
    of the image **[ours]**.
    """

    def __init__(self, temperature: float = 4.0, weight: float = 3.0) -> None:
        super().__init__()
        self.temperature, self.weight = temperature, weight

    def forward(self, student: Taps, teacher: Taps, labels: Tensor) -> dict[str, Tensor]:
        """{"channel": scalar} from logits (B, classes, H, W) on both sides; labels are not read."""
        maps = [taps.logits.float().flatten(2) / self.temperature for taps in (student, teacher)]
        softened = [F.log_softmax(positions, dim=2) for positions in maps]
        divergence = F.kl_div(softened[0], softened[1], reduction="none", log_target=True).sum(2).mean()
        return {"channel": self.weight * self.temperature**2 * divergence}
