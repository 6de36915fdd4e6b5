"""Pictures of a validation for whatever log a run writes: frame, truth and prediction side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import lightning as L
import numpy as np
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from transkd_ros.files import write_atomic


class Pictures(Callback):
    """After every validation, the first `count` validation images: frame, labels and prediction, each over the frame.

    They go to TensorBoard, Weights & Biases and MLflow. Where no log of the run takes pictures, the newest ones are
    files in `pictures/` of the run's folder.
    """

    def __init__(self, count: int = 4) -> None:
        self.count = count

    def on_validation_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        checking = trainer.sanity_checking or trainer.fast_dev_run  # type: ignore[attr-defined]
        if checking or batch_idx >= self.count or not trainer.is_global_zero:
            return
        frame = batch[0][0].permute(1, 2, 0).contiguous().cpu().numpy()
        truth, prediction = (masks[0].cpu().numpy() for masks in (batch[1], outputs["mask"]))
        shown = [module.table.overlay(frame, truth, legend=batch_idx == 0), module.table.overlay(frame, prediction)]
        picture = np.hstack([frame, *shown])
        taken = [_log(logger, f"val/{batch_idx}", picture, trainer.global_step) for logger in trainer.loggers]
        if not any(taken):
            _write(Path(trainer.default_root_dir) / "pictures" / f"val_{batch_idx}.jpg", picture)


def _log(logger: Logger, name: str, picture: np.ndarray, step: int) -> bool:
    """Whether a log has taken an (H, W, 3) uint8 RGB picture."""
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(name, picture, step, dataformats="HWC")
    elif isinstance(logger, WandbLogger):
        logger.log_image(name, [picture], step)
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_image(logger.run_id, picture, artifact_file=f"{name}/{step:07}.png")
    else:
        return False
    return True


def _write(path: Path, picture: np.ndarray) -> None:
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes())
