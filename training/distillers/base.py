"""What every distillation method is: named losses from what student and teacher show of themselves.

A method is one file beside this one and one recipe that names it. The training loop adds the cross-entropy, logs every
loss and knows no method. Whatever a method adds for training is its own and is never exported.
"""

from __future__ import annotations

from torch import Tensor, nn

from training.taps import Taps, Widths


class DistillerError(ValueError):
    """A student and teacher that a method cannot work on; the text says why and which methods fit."""


class Distiller(nn.Module):
    """The interface. The constructor takes the method's settings, as they stand in a recipe; `build` comes next."""

    needs_patches = False
    """Whether the method reads patch embeddings, which only transformer encoders (MiT, PVTv2) have."""

    def build(self, student: Widths, teacher: Widths) -> None:
        """Create the method's own parameters for networks of these widths. Raises DistillerError if they do not fit.

        Called once, after both networks exist, so that a student's initial weights do not depend on the method.
        """

    def forward(self, student: Taps, teacher: Taps, labels: Tensor) -> dict[str, Tensor]:
        """The method's losses by name, each a scalar with its weight applied; they are summed with the cross-entropy.

        `labels` is (B, H, W) int64 with 255 ignored. Nothing of `teacher` requires a gradient.
        """
        raise NotImplementedError


def check_fit(distiller: Distiller, student: Widths, teacher: Widths) -> None:
    """Raise DistillerError where a method reads what one of the networks does not have."""
    if student.classes != teacher.classes:
        raise DistillerError(f"the teacher knows {teacher.classes} classes, the student {student.classes}")
    if not distiller.needs_patches:
        return
    for role, network in (("student", student), ("teacher", teacher)):
        if not network.patches:
            fitting = sorted(method.__name__ for method in Distiller.__subclasses__() if not method.needs_patches)
            raise DistillerError(
                f"{type(distiller).__name__} aligns patch embeddings, and this {role}'s encoder has none "
                f"(MiT and PVTv2 do); methods that fit: {', '.join(fitting)}"
            )
