"""Train a student by a recipe: `python training/distill.py --config config/recipes/camvid_student.yaml`.

Everything of a recipe can be overridden on the command line (`--trainer.max_epochs 2`); `--print_config` shows the
whole; `--ckpt_path runs/NAME/checkpoints/last.ckpt` goes on with an interrupted run exactly where it was.
"""

from __future__ import annotations

import json
import platform
import signal
import sys
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a script: this folder is not the package's parent
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports, which take seconds; see `cli.run`

import lightning as L
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from training.distillers import DistillerError
from training.module import LossError, SegmentationModule
from training.networks import NetworkError
from training.taps import TapError
from training.trained import TrainedError
from transkd_ros import cli
from transkd_ros.bundle import BundleError
from transkd_ros.files import write_atomic
from transkd_ros.image_folder import ImageFolderError


BAD_INPUT = (BundleError, DistillerError, ImageFolderError, LossError, NetworkError, TapError, TrainedError)


class RunMetrics(Callback):
    """Writes `metrics.json` into the run's folder at its end: what was measured, and where."""

    def on_fit_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.started = time.time()

    def on_fit_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        checkpoint = trainer.checkpoint_callback
        if not isinstance(checkpoint, ModelCheckpoint) or not trainer.is_global_zero:  # none in a fast_dev_run
            return
        last = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val_")}
        record = {
            "best_val_miou": float(checkpoint.best_model_score or 0),
            "best_checkpoint": Path(checkpoint.best_model_path).name,
            "last": last,
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "seed": module.hparams["seed"],
            "wall_seconds_since_start_or_resume": round(time.time() - self.started),
            "machine": f"{platform.machine()}, {trainer.accelerator.__class__.__name__}, {trainer.precision}",
        }
        write_atomic(Path(trainer.default_root_dir) / "metrics.json", json.dumps(record, indent=2) + "\n")


class DistillCLI(LightningCLI):
    """LightningCLI without subcommands: a recipe, overrides, and a checkpoint to go on from.

    A run's folder is `trainer.default_root_dir`: TensorBoard log, config.yaml, and best and last in `checkpoints/`.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--ckpt_path", type=str | None, default=None, help="checkpoint to resume from")
        parser.set_defaults({"trainer.default_root_dir": "runs/unnamed"})
        parser.link_arguments("seed_everything", "model.seed")
        parser.link_arguments("seed_everything", "data.init_args.seed")

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        run = Path(self.config_init.trainer.default_root_dir)
        if self.config_init.trainer.logger is None:
            kwargs["logger"] = TensorBoardLogger(run, name="", version="")
        best: Any = {"filename": "best", "monitor": "val_miou", "mode": "max"}
        self.trainer_defaults["callbacks"] = [
            RichProgressBar(),
            LearningRateMonitor("step"),
            ModelCheckpoint(run / "checkpoints", **best, save_last=True, enable_version_counter=False),
            RunMetrics(),
        ]
        return super().instantiate_trainer(**kwargs)


def main(args: list[str] | None = None) -> None:
    command = DistillCLI(
        SegmentationModule,
        L.LightningDataModule,
        subclass_mode_data=True,
        seed_everything_default=1,
        run=False,
        args=args,
        save_config_kwargs={"overwrite": True},
    )
    command.trainer.fit(command.model, command.datamodule, ckpt_path=command.config.ckpt_path)


if __name__ == "__main__":
    cli.run(main, *BAD_INPUT)
