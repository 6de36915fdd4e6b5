"""What a run leaves behind beside its checkpoints: metrics.json, and the last words on the terminal."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.table import Table

from training.callbacks.folder import CHECKPOINTS, METRICS
from training.callbacks.gradients import GradientLog
from training.callbacks.progress import CostTable, crop_of
from training.callbacks.scores import TeacherScore
from transkd_ros import sizes
from transkd_ros.files import write_atomic
from transkd_ros.reports.machine import machine


class RunRecord(Callback):
    """Writes `metrics.json` into the run's folder at its end, shows the IoU of every class, and says what comes next.

    What it holds is that of the best epoch (the one in best.ckpt), with the cost of the student alone, from `costs`: it
    is what an export carries, whatever method trained it. `best_epoch` counts from 1. Time adds up over interruptions;
    `prepare_seconds` is the part of it before the first step, in which a method prepares itself. `teacher` and
    `gradients` have measured the teacher and the pull of the losses.
    """

    def __init__(self, costs: CostTable, teacher: TeacherScore, gradients: GradientLog) -> None:
        self.costs, self.teacher, self.gradients = costs, teacher, gradients
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
        if not self.best or self.last > self.best["val_miou"]:  # as ModelCheckpoint, which keeps these weights
            self.best = _by_class(values) | {"epoch": trainer.current_epoch}

    def on_fit_end(self, trainer: L.Trainer, module: Any) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run or not self.best:  # type: ignore[attr-defined]
            return
        folder = Path(trainer.default_root_dir)
        best = dict(self.best)
        best_epoch = best.pop("epoch") + 1
        student = self.costs.costs["student"]
        record = {
            "name": folder.name,
            "method": type(module.distiller).__name__ if module.distiller else "labels only",
            "network": str(module.spec),
            "teacher": module.teachers[0].source if module.teachers else None,
            "teacher_val_miou": self.teacher.miou,
            **best,
            "best_epoch": best_epoch,
            "last_val_miou": self.last,
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "seed": module.hparams["seed"],
            "wall_seconds": round(self._seconds()),
            "prepare_seconds": round(self.prepare_seconds, 1),
            "parameters": student.parameters,
            "macs": student.macs,
            "macs_at": sizes.named(crop_of(trainer)),
            "gradients": self.gradients.means,
            "precision": str(trainer.precision),
            "devices": trainer.world_size,
            "machine": _machine(module.device),
        }
        write_atomic(folder / METRICS, json.dumps(record, indent=2) + "\n")
        tuned = module.hparams["initial_weights"] if module.hparams["int8"] else None
        _show(record, folder, tuned)

    def _seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.started


def _by_class(values: dict[str, float]) -> dict[str, Any]:
    """`val_iou/road` … below one key, without the classes that the validation split lacks."""
    prefix = "val_iou/"
    iou = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
    rest = {name: value for name, value in values.items() if not name.startswith(prefix)}
    return rest | {"val_iou": {name: value for name, value in iou.items() if not math.isnan(value)}}


def _show(record: dict[str, Any], folder: Path, tuned: str | None) -> None:
    """The IoU of every class, the best score beside the teacher's, and the command that makes a bundle of it, or puts
    it into the bundle that was `tuned` for int8."""
    shown = Table(title=f"Validation, epoch {record['best_epoch']} of {record['epochs']}")
    shown.add_column("class")
    shown.add_column("IoU (%)", justify="right")
    for name, value in record["val_iou"].items():
        shown.add_row(name, f"{100 * value:.1f}")
    shown.add_row("mean", f"{100 * record['val_miou']:.1f}", style="bold")
    Console().print(shown)
    best, checkpoint = record["val_miou"], folder / CHECKPOINTS / "best.ckpt"
    print(f"best val mIoU {best:.1%}, epoch {record['best_epoch']} of {record['epochs']}: {checkpoint}")
    if (teacher := record["teacher_val_miou"]) is not None:
        print(f"the teacher's is {teacher:.1%}, on the same images")
        if teacher <= best and not tuned:
            print("warning: the teacher is not better than its student; one that is can teach it more")
    if tuned:
        options = f"--bundle models/{Path(tuned).name} --overwrite --int8 --int8-checkpoint {checkpoint}"
    else:
        options = f"--checkpoint {checkpoint} --output models/{folder.name}"
    print(f"export it: python training/export.py {options}")
    print(f"wrote {folder / METRICS}")


def _machine(device: torch.device) -> dict[str, Any]:
    return machine() | ({"gpu": torch.cuda.get_device_name(device)} if device.type == "cuda" else {})
