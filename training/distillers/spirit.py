"""Spirit Distillation: the student is its teacher with a compact front, in which it mimics it (arXiv 2103.13733).

What a front is, and how it becomes compact, stands in `training.fronts`. Enhanced SD mixes images of a proximity domain
into the first step: the data do that (`training.data.base`, option `proximity`).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from training.distillers.base import Distiller, DistillerError, Phase, methods_for_any_pair
from training.fronts import FRONT_STAGE, front_modules
from training.taps import Taps

MIMIC, FROZEN, FINE_TUNE = "mimic", "frozen", "fine-tune"
FRONT_TAP = FRONT_STAGE - 2
"""Which of a network's taps ends the front: these begin at stride 4, an encoder's maps with the image."""
HEAD = "segmentation_head"


class SpiritDistillation(Distiller):
    """Three steps: the front mimics the teacher's; frozen, while the rest learns the labels; all of it is fine-tuned.

    `mimic_epochs` and `frozen_epochs` are the lengths of the first two; the last takes what is left of the run. The
    first reads no labels, the others do not ask the teacher. `mimic_lr_scale` and `fine_tune_lr_scale` multiply the
    learning rate of the first and of the last step; each of the three warms up and decays on its own. All four values
    are **[ours]**, and so is that what stands still keeps its batch norm statistics, too.

    The student has the teacher's architecture and encoder, and `model.front_groups` of 2 or more. All but the grouped
    convolutions starts as the teacher's; the segmentation head starts anew where the teacher, which may be of another
    domain, knows another number of classes.

    Several processes need `trainer.strategy: ddp_find_unused_parameters_true`: a part of the network stands still.
    """

    reads_labels = True
    needs_same_network = True

    def __init__(
        self,
        mimic_epochs: int = 20,
        frozen_epochs: int = 20,
        fine_tune_lr_scale: float = 0.1,
        mimic_lr_scale: float = 1.0,
    ) -> None:
        super().__init__()
        if min(mimic_epochs, frozen_epochs) < 0:
            raise DistillerError(f"mimic_epochs is {mimic_epochs} and frozen_epochs {frozen_epochs}: 0 is the least")
        self.steps = (
            Phase(MIMIC, 0, mimic_lr_scale, labelled=False),
            Phase(FROZEN, mimic_epochs, taught=False),
            Phase(FINE_TUNE, mimic_epochs + frozen_epochs, fine_tune_lr_scale, taught=False),
        )
        self.front: list[str] = []

    def phases(self) -> tuple[Phase, ...]:
        return self.steps

    def adopt(self, student: Any, teacher: Any) -> None:
        """Copy what is the same in both networks, and find the front, whose grouped convolutions keep their weights."""
        own, theirs = student.state_dict(), teacher.state_dict()
        if own.keys() != theirs.keys():
            raise _misfit(student, teacher, "have other layers")
        different = {name for name, value in own.items() if value.shape != theirs[name].shape}
        compact = {name.rpartition(".")[0] for name in different if _is_grouped(own[name], theirs[name])}
        anew = compact | {HEAD for name in different if name.startswith(HEAD)}
        kept = {name: value for name, value in theirs.items() if not name.startswith(tuple(f"{it}." for it in anew))}
        if different & kept.keys():
            raise _misfit(student, teacher, "have layers of other sizes")
        if not compact:
            raise _misfit(student, teacher, "have the same front")
        student.load_state_dict(kept, strict=False)
        self.front = front_modules(student.encoder)

    def begin_epoch(self, phase: Phase, network: Any) -> None:
        """What stands still has no gradients and is in eval mode, so that its batch norms do not move either."""
        network.train(phase.name != MIMIC).requires_grad_(phase.name != MIMIC)
        for name in self.front:
            network.encoder.get_submodule(name).train(phase.name != FROZEN).requires_grad_(phase.name != FROZEN)

    def forward(self, student: Taps, teacher: Taps, labels: Tensor) -> dict[str, Tensor]:
        """{"mimic": scalar}, the mean squared difference of the maps (B, C, h, w) that end the fronts, in float32."""
        own, theirs = (taps.stages[FRONT_TAP].float() for taps in (student, teacher))
        return {"mimic": F.mse_loss(own, theirs)}


def _is_grouped(own: Tensor, theirs: Tensor) -> bool:
    """Whether these are the weights (out, in per group, h, w) of one convolution, in more groups than the teacher's."""
    return own.dim() == theirs.dim() == 4 and own[:, 0].shape == theirs[:, 0].shape and own.shape[1] < theirs.shape[1]


def _misfit(student: Any, teacher: Any, reason: str) -> DistillerError:
    return DistillerError(
        f"SpiritDistillation: the student must be the teacher with a compact front; {student.name} and the teacher's "
        f"{teacher.name} {reason}: set model.architecture and model.encoder to the teacher's and model.front_groups to "
        f"2 or more; methods that fit any two networks: {', '.join(methods_for_any_pair())}"
    )
