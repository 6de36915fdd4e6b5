"""What a run shows while it is under way: what it costs, where it is, and how good it is by now."""

from __future__ import annotations

import sys
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, RichProgressBar
from rich.console import Console

from training import cost
from training.module import SegmentationModule


class CostTable(Callback):
    """Prints, before the first step, what student, teacher and distiller cost at the size of the training crops.

    `costs` keeps it (see `cost.costs`), on the main process.
    """

    def __init__(self) -> None:
        self.costs: dict[str, cost.Cost] = {}

    def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.is_global_zero and isinstance(module, SegmentationModule):
            size = crop_of(trainer)
            self.costs = cost.costs(module, size)
            console = Console()
            console.print(cost.table(self.costs, size))
            where = f"{trainer.world_size} × {module.device.type}" if trainer.world_size > 1 else module.device.type
            console.print(f"{module.spec} on {where}, {trainer.precision}, seed {module.hparams['seed']}")


class Progress(RichProgressBar):
    """A bar on a terminal, and a line after every validation where there is none, as in a log. Epochs count from 1."""

    def __init__(self) -> None:
        super().__init__()
        if not sys.stdout.isatty():
            self.disable()

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        super().on_validation_end(trainer, module)
        if trainer.sanity_checking or not trainer.is_global_zero or sys.stdout.isatty():
            return
        names = {"val_miou": "val mIoU {:.1%}", "val_loss": "val loss {:.3f}", "loss/total": "training loss {:.3f}"}
        values = {name: trainer.callback_metrics[name] for name in names if name in trainer.callback_metrics}
        scores = ", ".join(names[name].format(float(value)) for name, value in values.items())
        print(f"epoch {trainer.current_epoch + 1}{self._of()}: {scores}", flush=True)

    def _get_train_description(self, current_epoch: int) -> str:
        return f"Epoch {current_epoch + 1}{self._of()}".ljust(len(self.validation_description))

    def _of(self) -> str:
        last: Any = self.trainer.max_epochs
        return f"/{last}" if last and last > 0 else ""


def crop_of(trainer: Any) -> tuple[int, int]:
    """(height, width) of the crops that a run trains on."""
    return tuple(trainer.datamodule.crop)
