"""Train a student by a recipe: `python training/distill.py --config config/recipes/camvid_student.yaml`.

Everything of a recipe can be overridden on the command line (`--trainer.max_epochs 2`); `--print_config` shows the
whole; `--ckpt_path runs/NAME/checkpoints/last.ckpt` goes on with an interrupted run exactly where it was.
"""

from __future__ import annotations

import signal
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

if __name__ == "__main__":  # run as a script: this folder is not the package's parent
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports, which take seconds; see `cli.run`

import lightning as L
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, ModelCheckpoint, RichProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger

from training.callbacks import CostTable, RunRecord, SampleOverlays
from training.class_maps import ClassMapError
from training.data.base import SegmentationData
from training.distillers import DistillerError
from training.module import ClassTableError, LossError, SegmentationModule
from training.networks import NetworkError
from training.soft_labels import SoftLabelError
from training.taps import TapError
from training.trained import TrainedError, opened_checkpoint
from transkd_ros import cli
from transkd_ros.bags.image_folder import ImageFolderError
from transkd_ros.model.bundle import BundleError

BAD_INPUT = (
    BundleError,
    ClassMapError,
    ClassTableError,
    DistillerError,
    ImageFolderError,
    LossError,
    NetworkError,
    SoftLabelError,
    TapError,
    TrainedError,
)
OUT_OF_MEMORY = (
    "out of memory: lower data.init_args.batch_size (and raise trainer.accumulate_grad_batches by as much, for as many "
    "images a step) or data.init_args.crop"
)


class RecipeParser(LightningArgumentParser):
    """Ends with one line for a recipe or an option that it cannot read, instead of every option there is."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        raise cli.CommandError(" ".join(message.split())[:600]) from ex


class DistillCLI(LightningCLI):
    """LightningCLI without subcommands: a recipe, overrides, and a checkpoint to go on from.

    A run's folder is `trainer.default_root_dir`: TensorBoard log, config.yaml, and best and last in `checkpoints/`.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--ckpt_path", type=str | None, default=None, help="checkpoint to resume from")
        parser.set_defaults(
            {
                "trainer.default_root_dir": "runs/unnamed",
                "trainer.enable_model_summary": False,  # CostTable shows more
                "trainer.use_distributed_sampler": False,  # SeededSampler deals the samples out to the processes
            }
        )
        parser.link_arguments("seed_everything", "model.seed")
        parser.link_arguments("seed_everything", "data.init_args.seed")

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        run = Path(self.config_init.trainer.default_root_dir)
        if self.config_init.trainer.logger is None:
            kwargs["logger"] = TensorBoardLogger(run, name="", version="")
        costs = CostTable()
        callbacks: list[Callback] = [RichProgressBar(), LearningRateMonitor("step")]
        callbacks += [SampleOverlays(), RunRecord(costs), costs]
        if not self.config_init.trainer.fast_dev_run:  # which leaves nothing behind
            best: Any = {"filename": "best", "monitor": "val_miou", "mode": "max"}
            callbacks.append(ModelCheckpoint(run / "checkpoints", **best, save_last=True, enable_version_counter=False))
        self.trainer_defaults["callbacks"] = callbacks
        return super().instantiate_trainer(**kwargs)


class _ReadOnly(DistillCLI):
    """A recipe that is read and leaves everything else alone."""

    def _set_seed(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        pass


def check_resumable(path: str, module: SegmentationModule) -> None:
    """Raise TrainedError for a checkpoint that is not one of this recipe's networks, OSError where there is none."""
    expected = module.state_dict()
    with opened_checkpoint(Path(path)) as checkpoint:
        weights = checkpoint["state_dict"]
        different = [
            name
            for name in {**expected, **weights}
            if name not in weights or name not in expected or weights[name].shape != expected[name].shape
        ]
    if different:
        raise TrainedError(f"{path} is a checkpoint of another recipe: {different[0]} differs from this network's")


def fit(command: DistillCLI) -> None:
    """Train; what a user can do something about ends in one line."""
    try:
        command.trainer.fit(
            command.model, command.datamodule, ckpt_path=command.config.ckpt_path, weights_only=True
        )
    except SystemExit:  # Lightning's, after an orderly end
        if command.trainer.interrupted:
            raise KeyboardInterrupt from None
        raise
    except RuntimeError as error:  # torch.OutOfMemoryError on a GPU; on a CPU a RuntimeError that says so
        if "out of memory" in str(error) or "can't allocate memory" in str(error):
            raise cli.CommandError(OUT_OF_MEMORY) from error
        raise


def command_of(args: list[str] | None, kind: type[DistillCLI] = DistillCLI) -> DistillCLI:
    """The command that `args` (None: those of this process) make: recipe and overrides read, everything built."""
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")  # we mean it
    return kind(
        SegmentationModule,
        L.LightningDataModule,
        subclass_mode_data=True,
        seed_everything_default=1,
        run=False,
        auto_configure_optimizers=False,
        parser_class=RecipeParser,
        args=args,
        save_config_kwargs={"overwrite": True},
    )


def settings_of(args: list[str]) -> dict[str, Any]:
    """What `args` come to, without building anything: every option's value by its dotted name.

    Raises CommandError for what the command itself would not understand.
    """
    return vars(command_of(args, _ReadOnly).config.as_flat())


def data_of(args: list[str]) -> SegmentationData:
    """The data that `args` name, and nothing else built. Raises CommandError as `settings_of` does."""
    data = command_of(args, _ReadOnly).config.data
    module, _, name = data.class_path.rpartition(".")
    return getattr(import_module(module), name)(**data.init_args.as_dict())


def main(args: list[str] | None = None) -> None:
    command = command_of(args)
    if command.config.ckpt_path:
        check_resumable(command.config.ckpt_path, command.model)
    fit(command)


if __name__ == "__main__":
    cli.run(main, *BAD_INPUT)
