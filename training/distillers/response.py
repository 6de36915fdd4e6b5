"""Response distillation: the student's class probabilities follow the teacher's, pixel by pixel (arXiv 1503.02531)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from training.distillers.base import Distiller, DistillerError
from training.distillers.maps import compared_logits
from training.taps import Taps


class ResponseKD(Distiller):
    """KL divergence of the softened class distributions, averaged over all pixels, labelled or not, times T².

    Works between any two networks that know the same classes, and from soft labels. `temperature` T softens both sides;
    `weight` multiplies the loss. Both defaults are **[ours]**: at temperature 1 a teacher that is nearly always right
    says what the labels say, and at 4 a weight of 0.3 pulls the encoder about as hard as the cross-entropy does.

    Pixels where the teacher's largest probability (at temperature 1) is below `trust`, 0 to 1, do not count: without
    labels nobody contradicts a teacher that guesses **[ours]**.
    """

    needs_stages = False
    needs_classes = True

    def __init__(self, temperature: float = 4.0, weight: float = 0.3, trust: float = 0.0) -> None:
        super().__init__()
        if not 0 <= trust < 1:
            raise DistillerError(f"model.distiller.init_args.trust is {trust}, not in [0, 1)")
        self.temperature, self.weight, self.trust = temperature, weight, trust

    def forward(self, student: Taps, teacher: Taps, labels: Tensor) -> dict[str, Tensor]:
        """{"response": scalar} from logits (B, classes, ·, ·) on both sides; labels are not read."""
        logits = compared_logits(student, teacher)
        softened = [F.log_softmax(side / self.temperature, dim=1) for side in logits]
        divergence = F.kl_div(softened[0], softened[1], reduction="none", log_target=True).sum(1)
        if self.trust:
            trusted = logits[1].softmax(1).amax(1) >= self.trust
            divergence = divergence.where(trusted, 0).sum() / trusted.sum().clamp_min(1)
        return {"response": self.weight * self.temperature**2 * divergence.mean()}
