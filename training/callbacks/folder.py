"""The folder of a run: not touched before everything has been checked, and no run in it replaced unasked."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from transkd_ros import cli
from transkd_ros.files import write_atomic

CONFIG, METRICS, CHECKPOINTS, LAST = "config.yaml", "metrics.json", "checkpoints", "last.ckpt"
REPLACED = (CHECKPOINTS, METRICS, "hparams.yaml", "pictures", "events.out.tfevents.*")
"""What `--overwrite` removes of an earlier run. What a method prepared stays: it checks by itself whether that fits."""


class RunFolder(Callback):
    """Makes the folder when the first step is next: clears it if asked to, writes config.yaml, and opens the logs.

    Args:
        folder: of the run.
        config: the content of config.yaml.
        loggers: what the run writes, which would make files of their own as soon as the trainer knew of them.
        clear: whether an earlier run gives way.
    """

    def __init__(self, folder: Path, config: str, loggers: Sequence[Logger], clear: bool = False) -> None:
        self.folder, self.config, self.loggers, self.clear = folder, config, list(loggers), clear

    def on_fit_start(self, trainer: Any, module: L.LightningModule) -> None:
        trainer.datamodule.train_dataloader()  # the last that can find fault with the data
        if trainer.is_global_zero:
            if self.clear:
                _clear(self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(self.folder / CONFIG, self.config)
        trainer.loggers = self.loggers


def check_free(folder: Path, ckpt_path: str | None, overwrite: bool) -> None:
    """Raise CommandError where a new run would replace one that `folder` holds, and nobody asked for that."""
    if ckpt_path and overwrite:
        raise cli.CommandError("--ckpt_path goes on with a run and --overwrite replaces it: give one of them")
    if overwrite or (ckpt_path and Path(ckpt_path).resolve().is_relative_to(folder.resolve())):
        return
    there = [path for path in (folder / METRICS, *sorted((folder / CHECKPOINTS).glob("*.ckpt"))) if path.exists()]
    if there:
        raise cli.CommandError(
            f"{folder} holds a run ({there[0].relative_to(folder)}): go on with it by --ckpt_path "
            f"{folder / CHECKPOINTS / LAST}, replace it by --overwrite, or take another --trainer.default_root_dir"
        )


def _clear(folder: Path) -> None:
    for pattern in REPLACED:
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
