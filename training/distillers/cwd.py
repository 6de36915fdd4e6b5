"""CWD, channel-wise distillation: where in the image each class is seen, as a distribution (arXiv 2011.13256)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from training.distillers.base import Distiller
from training.distillers.maps import compared_logits
from training.taps import Taps


class CWD(Distiller):
    """KL divergence of the softened distributions over positions, one per class map, averaged over classes, times T².

    Works between any two networks that know the same classes, and from soft labels; positions count whether labelled or
    not. `temperature` T softens both sides, `weight` multiplies the loss: the paper's values for logits. The logits are
    compared at the image's size over `stride` **[ours]**, a quarter of it for a weight of about 0.7 (see the recipe).
    """

    needs_stages = False
    needs_classes = True

    def __init__(self, temperature: float = 4.0, weight: float = 3.0, stride: int = 1) -> None:
        super().__init__()
        self.temperature, self.weight, self.stride = temperature, weight, stride

    def forward(self, student: Taps, teacher: Taps, labels: Tensor) -> dict[str, Tensor]:
        """{"channel": scalar} from logits (B, classes, ·, ·) on both sides; labels are not read."""
        own, wanted = compared_logits(student, teacher, self.stride)
        if not teacher.stages:  # soft labels, which are log-probabilities
            own = own.log_softmax(1)
        softened = [F.log_softmax(side.flatten(2) / self.temperature, dim=2) for side in (own, wanted)]
        divergence = F.kl_div(softened[0], softened[1], reduction="none", log_target=True).sum(2).mean()
        return {"channel": self.weight * self.temperature**2 * divergence}
