"""What a run costs, before it is paid: parameters and multiply-accumulates of student, teacher and distiller."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from training.module import SegmentationModule
from training.networks import SIZE_DIVISOR, count_macs, count_parameters
from training.teachers import Teacher


@dataclass(frozen=True)
class Cost:
    """`parameters`, and `macs` of one image."""

    parameters: int
    macs: int


def costs(module: SegmentationModule, size: tuple[int, int]) -> dict[str, Cost]:
    """Cost of "student", and under a teacher of "teacher" (soft labels have none) and "training only" (the distiller).

    At `size` (H, W) rounded up to what networks take.
    """
    height, width = (-(-side // SIZE_DIVISOR) * SIZE_DIVISOR for side in size)
    networks = {"student": module.network}
    if module.teachers and isinstance(teacher := module.teachers[0], Teacher):
        networks["teacher"] = teacher.network
    found = {role: Cost(count_parameters(net), count_macs(net, (height, width))) for role, net in networks.items()}
    if module.distiller is not None:
        macs = _own_macs(module, (height, width)) - found["student"].macs
        found["training only"] = Cost(count_parameters(module.distiller), macs)
    return found


@torch.no_grad()
def _own_macs(module: SegmentationModule, size: tuple[int, int]) -> int:
    """Of all losses of one image, without what the teacher runs for them."""
    image = torch.zeros(1, 3, *size, dtype=torch.uint8, device=module.device)
    training = module.training
    module.eval()  # running statistics are not for zeros
    with FlopCounterMode(display=False) as whole:
        module.losses(image, image[:, 0])
    with FlopCounterMode(display=False) as teacher:
        module.shown_by_teacher(image)
    module.train(training)
    return (whole.get_total_flops() - teacher.get_total_flops()) // 2


def table(found: dict[str, Cost], size: tuple[int, int]) -> Table:
    """The costs for a terminal, with what the student saves. A network that nobody teaches is no student."""
    student, teacher = found["student"], found.get("teacher")
    shown = Table(title=f"Cost of an image of {size[1]}x{size[0]}")
    for column in ("", "parameters (M)", "GMACs"):
        shown.add_column(column, justify="right" if column else "left")
    for name, cost in found.items():
        shown.add_row(name if len(found) > 1 else "network", f"{cost.parameters / 1e6:.2f}", f"{cost.macs / 1e9:.2f}")
    if teacher and teacher.macs > student.macs:
        fewer = (1 - student.parameters / teacher.parameters, 1 - student.macs / teacher.macs)
        shown.add_row("student saves", *(f"{share:.1%}" for share in fewer), style="bold")
    return shown
