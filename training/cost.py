"""What a run costs, before it is paid: parameters and multiply-accumulates of student, teacher and distiller."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from rich.table import Table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from training.module import SegmentationModule
from training.networks import SIZE_DIVISOR, count_macs, count_parameters


@dataclass(frozen=True)
class Cost:
    """`parameters`, and `macs` of one image."""

    parameters: int
    macs: int


def costs(module: SegmentationModule, size: tuple[int, int]) -> dict[str, Cost]:
    """Cost of "student", and under a teacher of "teacher" and "training only" (the distiller), at `size` (H, W) rounded
    up to what networks take."""
    height, width = (-(-side // SIZE_DIVISOR) * SIZE_DIVISOR for side in size)
    found = {"student": _cost(module.network, (height, width))}
    for teacher in module.teachers:
        found["teacher"] = _cost(teacher.network, (height, width))
    if module.distiller is not None:
        found["training only"] = Cost(count_parameters(module.distiller), _distiller_macs(module, (height, width)))
    return found


def _cost(network: nn.Module, size: tuple[int, int]) -> Cost:
    return Cost(count_parameters(network), count_macs(network, size))


@torch.no_grad()
def _distiller_macs(module: SegmentationModule, size: tuple[int, int]) -> int:
    """Of all losses of one image, less the two networks'."""
    image = torch.zeros(1, 3, *size, dtype=torch.uint8, device=module.device)
    training = module.training
    module.eval()  # running statistics are not for zeros
    with FlopCounterMode(display=False) as counter:
        module.losses(image, image[:, 0])
    module.train(training)
    networks = [module.network, *(teacher.network for teacher in module.teachers)]
    return counter.get_total_flops() // 2 - sum(count_macs(network, size) for network in networks)


def table(found: dict[str, Cost], size: tuple[int, int]) -> Table:
    """The costs for a terminal, with what the student saves."""
    shown = Table(title=f"Cost at {size[1]}x{size[0]}")
    for column in ("", "parameters", "GMACs"):
        shown.add_column(column, justify="right" if column else "left")
    for name, cost in found.items():
        shown.add_row(name, f"{cost.parameters / 1e6:.2f} M", f"{cost.macs / 1e9:.2f}")
    student, teacher = found["student"], found.get("teacher")
    if teacher and teacher.macs > student.macs:
        fewer = (1 - student.parameters / teacher.parameters, 1 - student.macs / teacher.macs)
        shown.add_row("student saves", *(f"{share:.1%}" for share in fewer), style="bold")
    return shown
