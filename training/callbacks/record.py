"""What a run shows and leaves behind beside its checkpoints: cost table, pictures in TensorBoard, metrics.json."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from rich.table import Table

from training import cost
from training.module import SegmentationModule
from transkd_ros.files import write_atomic
from transkd_ros.reports.machine import machine


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
            Console().print(cost.table(self.costs, size))


class SampleOverlays(Callback):
    """After every validation, the predictions of the first `count` validation images over these, in TensorBoard."""

    def __init__(self, count: int = 4) -> None:
        self.count = count

    def on_validation_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if trainer.sanity_checking or batch_idx >= self.count or not isinstance(trainer.logger, TensorBoardLogger):
            return
        image = batch[0][0].permute(1, 2, 0).contiguous().cpu().numpy()
        overlay = module.table.overlay(image, outputs[0].cpu().numpy(), legend=batch_idx == 0)
        trainer.logger.experiment.add_image(f"val/{batch_idx}", overlay, trainer.global_step, dataformats="HWC")


class RunRecord(Callback):
    """Writes `metrics.json` into the run's folder at its end, and shows the IoU of every class.

    What it holds is that of the best epoch (the one in best.ckpt), with the cost of the student alone, from `costs`: it
    is what an export carries, whatever method trained it. Time adds up over interruptions; `prepare_seconds` is the
    part of it before the first step, in which a method prepares itself.
    """

    def __init__(self, costs: CostTable) -> None:
        self.costs = costs
        self.best: dict[str, Any] = {}
        self.last: float | None = None
        self.seconds_before = self.prepare_seconds = 0.0
        self.started = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        kept = {"best": self.best, "last": self.last, "prepare_seconds": self.prepare_seconds}
        return kept | {"seconds": self._seconds()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.seconds_before = state["best"], state["seconds"]
        # A checkpoint may be older than these.
        self.last, self.prepare_seconds = state.get("last"), state.get("prepare_seconds", 0.0)

    def setup(self, trainer: L.Trainer, module: L.LightningModule, stage: str) -> None:
        self.started = time.monotonic()  # what a method prepares counts, too

    def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.prepare_seconds += time.monotonic() - self.started

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        values = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val_")}
        if trainer.sanity_checking:
            return
        self.last = values["val_miou"]
        if self.last >= self.best.get("val_miou", 0):
            self.best = _by_class(values) | {"epoch": trainer.current_epoch}

    def on_fit_end(self, trainer: L.Trainer, module: Any) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run or not self.best:  # type: ignore[attr-defined]
            return
        console = Console()
        console.print(_iou_table(self.best))
        folder = Path(trainer.default_root_dir)
        student = self.costs.costs["student"]
        record = {
            "name": folder.name,
            "method": type(module.distiller).__name__ if module.distiller else "labels only",
            "network": str(module.spec),
            "teacher": module.teachers[0].source if module.teachers else None,
            **self.best,
            "last_val_miou": self.last,
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "seed": module.hparams["seed"],
            "wall_seconds": round(self._seconds()),
            "prepare_seconds": round(self.prepare_seconds, 1),
            "parameters": student.parameters,
            "macs": student.macs,
            "macs_at": list(crop_of(trainer)),
            "precision": str(trainer.precision),
            "devices": trainer.world_size,
            "machine": _machine(module.device),
        }
        write_atomic(folder / "metrics.json", json.dumps(record, indent=2) + "\n")
        console.print(f"wrote {folder / 'metrics.json'}", highlight=False)

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started


def crop_of(trainer: Any) -> tuple[int, int]:
    """(height, width) of the crops that a run trains on."""
    height, width = trainer.datamodule.hparams["crop"]
    return height, width


def _by_class(values: dict[str, float]) -> dict[str, Any]:
    """`val_iou/road` … below one key, without the classes that the validation split lacks."""
    prefix = "val_iou/"
    iou = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
    rest = {name: value for name, value in values.items() if not name.startswith(prefix)}
    return rest | {"val_iou": {name: value for name, value in iou.items() if not math.isnan(value)}}


def _iou_table(best: dict[str, Any]) -> Table:
    shown = Table(title=f"Validation, epoch {best['epoch']}")
    shown.add_column("class")
    shown.add_column("IoU", justify="right")
    for name, value in best["val_iou"].items():
        shown.add_row(name, f"{value:.1%}")
    shown.add_row("mean", f"{best['val_miou']:.1%}", style="bold")
    return shown


def _machine(device: torch.device) -> dict[str, Any]:
    return machine() | ({"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {})
