"""What every distillation method is: named losses from what student and teacher show of themselves.

A method is one file beside this one and one recipe that names it. The training loop adds the cross-entropy, logs every
loss and knows no method. Whatever a method adds for training is its own and is never exported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from training.taps import Taps, Widths
from training.teachers import Teacher


class DistillerError(ValueError):
    """A student, teacher or setting that a method cannot work with; the text says why and which methods fit."""


@dataclass(frozen=True)
class Phase:
    """A part of a run, from the epoch `start` until the next phase starts, with a warm-up and decay of its own.

    Its learning rate peaks at `lr_scale` times the recipe's. Without `labelled` the cross-entropy does not count, and
    images without labels may be mixed in; without `taught` the teacher is not asked and the method has no losses.
    """

    name: str
    start: int = 0
    lr_scale: float = 1.0
    labelled: bool = True
    taught: bool = True


@dataclass(frozen=True)
class Preparation:
    """What a method may use before the first step of a run, on the main process.

    `epoch()` goes through an epoch of training images (B, 3, H, W) uint8, `steps` batches on the device of the teacher.
    What should outlive an interruption goes into `folder`, the run's; it is None where a run leaves nothing behind.
    """

    teacher: Teacher
    epoch: Callable[[], Iterator[Tensor]]
    steps: int
    folder: Path | None


class Distiller(nn.Module):
    """The interface. The constructor takes the method's settings, as they stand in a recipe; `build` comes next."""

    needs_stages = True
    """Whether the method reads stage maps; a teacher of stored soft labels has none."""
    needs_patches = False
    """Whether the method reads patch embeddings, which only transformer encoders (MiT, PVTv2) have."""
    needs_classes = False
    """Whether the method compares logits, so that student and teacher have to know the same classes."""
    reads_labels = False
    """Whether the method, or a phase of it, learns from labels only, so that frames without labels teach it nothing."""
    needs_same_network = False
    """Whether the student has to be the teacher's own network, made smaller."""

    def build(self, student: Widths, teacher: Widths) -> None:
        """Create the method's own parameters for networks of these widths. Raises DistillerError if they do not fit.

        Called once, after both networks exist, so that a student's initial weights do not depend on the method.
        """

    def adopt(self, student: Any, teacher: Any) -> None:
        """Start the student's network from the teacher's, where a method does. Raises DistillerError if it cannot.

        Called once, after `build`; a resumed run then gets its own weights back.
        """

    def prepare(self, run: Preparation) -> None:
        """Train what has to exist before the first step, and freeze it.

        Raises DistillerError for what an earlier run left behind and this one cannot use.
        """

    def phases(self) -> tuple[Phase, ...]:
        """The phases of a run in their order, the first from epoch 0."""
        return (Phase("train"),)

    def begin_epoch(self, phase: Phase, network: Any) -> None:
        """Freeze or free parts of the student's network, at the start of every epoch; all of it is in train mode."""

    def forward(self, student: Taps, teacher: Taps, labels: Tensor) -> dict[str, Tensor]:
        """The method's losses by name, each a scalar with its weight applied; they are summed with the cross-entropy.

        `labels` is (B, H, W) int64 with 255 ignored. Nothing of `teacher` requires a gradient. A teacher of stored soft
        labels shows log-probabilities as its logits, smaller than the image, and no stages.
        """
        raise NotImplementedError


def check_fit(distiller: Distiller, student: Widths, teacher: Widths) -> None:
    """Raise DistillerError where a method reads what one of the networks does not have."""
    if distiller.needs_stages and not teacher.stages:
        raise DistillerError(
            f"{type(distiller).__name__} reads stage maps, and this teacher has none to show: soft labels are logits "
            "only; methods that fit: ResponseKD, CWD, C2VKD with visual_weight and linguistic_weight 0"
        )
    if not distiller.needs_patches:
        return
    for role, network in (("student", student), ("teacher", teacher)):
        if not network.patches:
            raise DistillerError(
                f"{type(distiller).__name__} aligns patch embeddings, and this {role}'s encoder has none "
                f"(MiT and PVTv2 do); methods that fit: {', '.join(methods_for_any_pair())}"
            )


def methods_for_any_pair() -> list[str]:
    """The names of the methods that ask nothing of student and teacher, for the texts of errors."""
    methods = Distiller.__subclasses__()
    return sorted(it.__name__ for it in methods if not (it.needs_patches or it.needs_same_network))
