"""Train a network by a recipe: `python training/distill.py --config config/recipes/camvid_light.yaml`.

Everything of a recipe can be overridden on the command line (`--trainer.max_epochs 2`); `--print_config` shows the
whole; `--ckpt_path runs/NAME/checkpoints/last.ckpt` goes on with an interrupted run exactly where it was. A folder that
holds a run is not written into unless it is that run which goes on, or `--overwrite` is given.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a script: this folder is not the package's parent
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports, which take seconds; see `cli.run`
    from training.requirements import require

    require()

import lightning as L
from lightning.pytorch.callbacks import Callback, LearningRateMonitor, WeightAveraging
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from training.callbacks import (
    CostTable,
    GradientLog,
    Pictures,
    Progress,
    RunFolder,
    RunRecord,
    TeacherScore,
    ValidationScores,
    average_on_its_device,
    checkpoints,
)
from training.callbacks.folder import CHECKPOINTS, CONFIG, LAST, check_free
from training.class_maps import ClassMapError
from training.command_line import NO_RECIPE, RecipeParser
from training.data.base import SegmentationData
from training.distillers import DistillerError
from training.module import ClassTableError, LossError, SegmentationModule
from training.networks import NetworkError
from training.soft_labels import SoftLabelError
from training.taps import TapError
from training.trained import TrainedError, labels_of, opened_checkpoint
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
GRADIENTS = "gradient_log"


class DistillCLI(LightningCLI):
    """LightningCLI without subcommands: a recipe, overrides, and a checkpoint to go on from.

    A run's folder is `trainer.default_root_dir`: TensorBoard log, config.yaml, and best and last in `checkpoints/`.
    Loggers of `trainer.logger` come beside TensorBoard, with their files in the same folder.
    """

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--ckpt_path", type=str | None, default=None, help="checkpoint to resume from")
        parser.add_argument("--overwrite", action="store_true", help="replace the run that the folder holds")
        parser.add_lightning_class_args(GradientLog, GRADIENTS)
        parser.set_defaults(
            {
                "trainer.default_root_dir": "runs/unnamed",
                "trainer.enable_model_summary": False,  # CostTable shows more
                "trainer.use_distributed_sampler": False,  # SeededSampler deals the samples out to the processes
            }
        )
        parser.link_arguments("seed_everything", "model.seed")
        parser.link_arguments("seed_everything", "data.init_args.seed")
        parser.link_arguments("model.labels", "data.init_args.labels")  # of a data set without a table of its own

    @property
    def folder(self) -> Path:
        """The run's."""
        return Path(self.config.trainer.default_root_dir)

    def before_instantiate_classes(self) -> None:
        """Let the recipe's loggers write into the run's folder, and call the run by the folder's name."""
        given = self.config.trainer.logger
        for logger in given if isinstance(given, list) else [given]:
            options = getattr(logger, "init_args", {})
            if "save_dir" in options:
                options["save_dir"] = str(self.folder)
                os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # MLflow would rather have a database
            for name in ("name", "run_name"):
                if name in options and options[name] is None:
                    options[name] = self.folder.name

    def instantiate_classes(self) -> None:
        try:
            super().instantiate_classes()
        except ValueError as error:
            if isinstance(cause := error.__cause__, ModuleNotFoundError):
                raise cli.CommandError(f"{cli.one_line(cause)}; for logs: pip install -e '.[tracking]'") from error
            raise

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        dry = self.config.trainer.fast_dev_run  # leaves nothing behind
        loggers = self._loggers()
        costs, teacher = CostTable(), TeacherScore()
        record = RunRecord(costs, teacher, self.config_init[GRADIENTS])
        callbacks: list[Callback] = [Progress(), ValidationScores(), teacher, Pictures(), record, costs]
        if loggers:
            callbacks.append(LearningRateMonitor("step"))
        if not dry:
            kwargs["logger"] = False  # RunFolder opens them, when everything has been checked
            callbacks += [
                RunFolder(self.folder, self._recipe(), loggers, self.config.overwrite),
                *checkpoints(self.folder),
            ]
        self.trainer_defaults["callbacks"] = callbacks
        return super().instantiate_trainer(**kwargs)

    def _loggers(self) -> list[Logger]:
        """Those of the recipe and TensorBoard's, unless the recipe has one of its own or wants none (false)."""
        given = self.config_init.trainer.logger
        if given is False:
            return []
        loggers = given if isinstance(given, list) else [given] if isinstance(given, Logger) else []
        if any(isinstance(logger, TensorBoardLogger) for logger in loggers):
            return loggers
        return [TensorBoardLogger(self.folder, name="", version="", default_hp_metric=False), *loggers]

    def _recipe(self) -> str:
        """The whole of the run as YAML, without what was only for this call."""
        config = self.config.clone()
        config.overwrite, config.ckpt_path = False, None
        return self.parser.dump(config, skip_none=False)


class _ReadOnly(DistillCLI):
    """A recipe that is read and leaves everything else alone."""

    def _set_seed(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        pass


def check_resumable(path: str, module: SegmentationModule, trainer: L.Trainer) -> None:
    """Raise TrainedError for a checkpoint that is not one of this recipe's networks or of another way to train it,
    ClassTableError for one of other classes, OSError where there is none."""
    expected = module.state_dict()
    averaging = any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    with opened_checkpoint(Path(path)) as checkpoint:
        weights, settings = checkpoint["state_dict"], checkpoint["hyper_parameters"]
        averaged, labels = "current_model_state" in checkpoint, labels_of(checkpoint)
        different = [
            name
            for name in {**expected, **weights}
            if name not in weights or name not in expected or weights[name].shape != expected[name].shape
        ]
    if different:
        raise TrainedError(f"{path} is a checkpoint of another recipe: {different[0]} differs from this network's")
    module.check_classes(path, len(labels.names), labels)
    if averaged != averaging:
        has, lacks = ("that run", "this recipe") if averaged else ("this recipe", "that run")
        raise TrainedError(
            f"{path} is a checkpoint of another recipe: {has} has a weight average in trainer.callbacks, {lacks} none"
        )
    if settings.get("decay_norms", True) != module.hparams["decay_norms"]:  # older runs decayed everything
        raise TrainedError(
            f"{path} is of a run whose weight decay {'spared' if module.hparams['decay_norms'] else 'took in'} norms "
            f"and biases: go on with --model.decay_norms {str(not module.hparams['decay_norms']).lower()}"
        )


def fit(command: DistillCLI) -> None:
    """Train; what a user can do something about ends in one line."""
    try:
        command.trainer.fit(command.model, command.datamodule, ckpt_path=command.config.ckpt_path, weights_only=True)
    except SystemExit:  # Lightning's, after an orderly end
        if command.trainer.interrupted:
            _say_how_to_go_on(command)
            raise KeyboardInterrupt from None
        raise
    except RuntimeError as error:  # torch.OutOfMemoryError on a GPU; on a CPU a RuntimeError that says so
        if "out of memory" in str(error) or "can't allocate memory" in str(error):
            raise cli.CommandError(OUT_OF_MEMORY) from error
        raise


def _say_how_to_go_on(command: DistillCLI) -> None:
    last, config = command.folder / CHECKPOINTS / LAST, command.folder / CONFIG
    if command.trainer.is_global_zero and not command.trainer.fast_dev_run:  # type: ignore[attr-defined]
        go_on = f"go on with: python training/distill.py --config {config} --ckpt_path {last}"
        print("interrupted;", go_on if last.exists() else "there is no checkpoint yet to go on from", file=sys.stderr)


def command_of(args: list[str] | None, kind: type[DistillCLI] = DistillCLI) -> DistillCLI:
    """The command that `args` (None: those of this process) make: recipe and overrides read, everything built."""
    warnings.filterwarnings("ignore", message="LightningCLI's args parameter")  # we mean it
    return kind(
        SegmentationModule,
        SegmentationData,
        subclass_mode_data=True,
        seed_everything_default=1,
        run=False,
        auto_configure_optimizers=False,
        parser_class=RecipeParser,
        args=args,
        save_config_callback=None,  # RunFolder writes it
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


def quiet() -> None:
    """Leave out what libraries say about themselves: advertisements, deprecations, devices that nobody asked for."""
    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for category in (DeprecationWarning, PendingDeprecationWarning, FutureWarning):
        warnings.filterwarnings("ignore", category=category)
    for text in (r"The '\w+' does not have many workers", "Checkpoint directory"):  # a recipe says how many; check_free
        warnings.filterwarnings("ignore", text)


def main(args: list[str] | None = None) -> None:
    if not (sys.argv[1:] if args is None else args):
        raise cli.CommandError(NO_RECIPE)
    command = command_of(args)
    checkpoint = command.config.ckpt_path
    if checkpoint:
        check_resumable(checkpoint, command.model, command.trainer)
        print(f"going on from {checkpoint}")
    if not command.config.trainer.fast_dev_run:
        check_free(command.folder, checkpoint, command.config.overwrite)
    average_on_its_device(command.trainer)
    fit(command)


if __name__ == "__main__":
    quiet()
    cli.run(main, *BAD_INPUT)
