"""What a run keeps: the weights of its best epoch, and all that it takes to go on after the last one."""

from __future__ import annotations

from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, WeightAveraging

from training.callbacks.folder import CHECKPOINTS


def checkpoints(folder: Path) -> list[Callback]:
    """Callbacks that write `best.ckpt` after a validation that was better than all before, and `last.ckpt` after every
    epoch, whatever came of it, and that validate the last epoch.

    `folder` is the run's.
    """
    best = ModelCheckpoint(
        folder / CHECKPOINTS, "best", monitor="val_miou", mode="max", enable_version_counter=False
    )
    last = ModelCheckpoint(
        folder / CHECKPOINTS, "last", every_n_epochs=1, save_on_train_epoch_end=True, enable_version_counter=False
    )
    return [ValidateTheEnd(), best, last]


class ValidateTheEnd(Callback):
    """Has the last epoch validated, in which the learning rate comes to rest, however seldom others are."""

    def on_train_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if trainer.check_val_every_n_epoch and trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1


def average_on_its_device(trainer: L.Trainer) -> None:
    """Have a moving average of the weights made where these will be: Lightning sets it up before they are moved, and
    would keep it on the CPU, every step of a GPU waiting for it."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, WeightAveraging) and callback._device is None:
            callback._device = trainer.strategy.root_device
