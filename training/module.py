"""The training loop's view of a network: losses, optimiser, schedule and validation mIoU, whatever the method.

What a run measures, shows and leaves behind beside that lives in `training.callbacks`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MulticlassConfusionMatrix

from training.data.samples import IGNORE
from training.deploy import fold
from training.distillers import Distiller, DistillerError
from training.distillers.base import Phase, Preparation, check_fit
from training.fake_int8 import FakeInt8
from training.networks import NetworkError, NetworkSpec, Normalise, build_network
from training.soft_labels import StoredTeacher
from training.taps import Taps, Widths, compile_parts, run_tapped, widths
from training.teachers import Teacher, TeacherSource, load_teacher
from training.trained import TrainedError, read_trained
from transkd_ros.model.labels import LabelTable

MOMENTUM = 0.9
RANK_STRIDE = 0x9E3779B1
"""What sets the seeds of two processes apart: of 32 bits, because the CPU's generator takes no more of a seed."""


class LossError(ArithmeticError):
    """A loss that is not finite; the text names it."""


class ClassTableError(ValueError):
    """Student, teacher and data that are not about the same classes; the text says who differs."""


class SegmentationModule(L.LightningModule):
    """A network trained on labels, and under a teacher by a distillation method where a recipe names both.

    Batches are images (B, 3, H, W) uint8 and labels (B, h, w) uint8 with 255 ignored. The learning rate warms up
    linearly and decays polynomially to zero, over the run or over each of the phases that a method divides it into. A
    loss that is not finite stops the run.

    Args:
        architecture: see NetworkSpec; the student's, or the network's that is trained alone.
        encoder: see NetworkSpec.
        encoder_weights: see build_network.
        initial_weights: a checkpoint or a bundle (folder or name) of the same network, whose weights it starts from.
        output_stride: see NetworkSpec.
        front_groups: see NetworkSpec.
        decoder_width: see NetworkSpec.
        labels: name of the class table in config/labels.
        distiller: a method of training/distillers; without one the network learns from labels only.
        teacher: whom the distiller looks at.
        class_weights: a factor per class for the cross-entropy, in the order of the class table.
        lr: peak learning rate.
        encoder_lr_scale: slows an encoder that starts from published weights.
        weight_decay: the optimiser's.
        decay_norms: whether it also pulls at norms, biases and what else has one dimension, such as layer scales.
        optimiser: adamw, or sgd with a momentum of 0.9.
        warmup_steps: steps of linear warm-up.
        power: of the polynomial decay; 1 is linear.
        compile: by torch.compile, from the first step on: quicker on a GPU, slower on a CPU.
        int8: fine-tune `initial_weights` for int8: folded as the export folds it, with the statistics of batch norms as
            they are, the network computes as `training.fake_int8` says. The export has --int8-checkpoint for it.
        seed: the run's (linked to seed_everything).
    """

    network: Any

    def __init__(
        self,
        architecture: str = "segformer",
        encoder: str = "mit_b0",
        encoder_weights: str | None = None,
        initial_weights: str | None = None,
        output_stride: int | None = None,
        front_groups: int = 1,
        decoder_width: int | None = None,
        labels: str = "camvid",
        distiller: Distiller | None = None,
        teacher: TeacherSource | None = None,
        class_weights: list[float] | None = None,
        lr: float = 1e-3,
        encoder_lr_scale: float = 1.0,
        weight_decay: float = 0.01,
        decay_norms: bool = False,
        optimiser: Literal["adamw", "sgd"] = "adamw",
        warmup_steps: int = 100,
        power: float = 0.9,
        compile: bool = False,
        int8: bool = False,
        seed: int = 1,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["distiller", "teacher"])
        self.table = LabelTable.load(labels)
        classes = len(self.table.names)
        self.spec = NetworkSpec(architecture, encoder, classes, output_stride, front_groups, decoder_width)
        self.network = build_network(self.spec, encoder_weights).to(memory_format=torch.channels_last)
        if initial_weights is not None:
            self._start_from(initial_weights)
        if int8:
            self._fold(initial_weights is None, compile)
        self.normalise = Normalise(self.spec)
        self.confusion = MulticlassConfusionMatrix(len(self.table.names), ignore_index=IGNORE)
        if class_weights is not None and len(class_weights) != len(self.table.names):
            raise ClassTableError(f"model.class_weights: {len(class_weights)} for {len(self.table.names)} classes")
        self.class_weights = None if class_weights is None else torch.tensor(class_weights)
        self.distiller: Distiller | None = None
        # In a tuple, so that it is no submodule: it is not trained, synchronised, or saved with the student.
        self.teachers: tuple[Teacher | StoredTeacher, ...] = ()
        self.phases: tuple[Phase, ...] = (Phase("train"),)
        self.phase = self.phases[0]
        self.step_losses: dict[str, Tensor] = {}
        if (distiller is None) != (teacher is None):
            raise DistillerError("model.distiller and model.teacher belong together: a recipe names both or neither")
        if distiller is not None and teacher is not None:
            self.learn_from(load_teacher(teacher), distiller)

    def _start_from(self, source: str) -> None:
        """Take over all weights. Raises TrainedError for another network, ClassTableError for one of other classes."""
        trained = read_trained(source)
        self.check_classes(f"model.initial_weights {source}", trained.spec.classes, trained.labels)
        if trained.spec != self.spec:
            raise TrainedError(f"model.initial_weights {source} is a {trained.spec}; model is a {self.spec}")
        self.network.load_state_dict(trained.network.state_dict())

    def _fold(self, untrained: bool, compile: bool) -> None:
        """Raises NetworkError for a network that was not trained yet, and for one that is compiled."""
        if untrained:
            raise NetworkError("model.int8 fine-tunes a network that was trained: name it in model.initial_weights")
        if compile:
            raise NetworkError("model.int8 and model.compile do not go together: set one of them to false")
        self.network = fold(self.network).requires_grad_().to(memory_format=torch.channels_last)

    def train(self, mode: bool = True) -> SegmentationModule:
        super().train(mode)
        if self.hparams["int8"]:  # a folded network's batch norms are constants of its convolutions
            for module in self.network.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eval()
        return self

    def _arithmetic(self) -> AbstractContextManager[Any]:
        """What the network has to run in."""
        return FakeInt8(self.network) if self.hparams["int8"] else nullcontext()

    def learn_from(self, teacher: Teacher | StoredTeacher, distiller: Distiller) -> None:
        """Put the student under a teacher. Raises ClassTableError or DistillerError where they do not fit."""
        if distiller.needs_classes:
            who = f"teacher {teacher.source}"
            if teacher.labels is None:
                raise ClassTableError(f"{who} does not say what its classes are: name its model.teacher.labels")
            self.check_classes(who, teacher.spec.classes, teacher.labels)
        student_widths = widths(self.network)
        stored = isinstance(teacher, StoredTeacher)
        teacher_widths = Widths(teacher.spec.classes, (), ()) if stored else widths(teacher.network)
        check_fit(distiller, student_widths, teacher_widths)
        distiller.build(student_widths, teacher_widths)
        distiller.adopt(self.network, teacher.network)
        self.distiller, self.teachers, self.phases = distiller, (teacher,), distiller.phases()
        self.phase = self.phases[0]

    def setup(self, stage: str) -> None:
        """Check the data, and let the method prepare itself, before processes are joined and a checkpoint is loaded.

        Raises ClassTableError where the data are of other classes, DistillerError for a run too short for its phases.
        """
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if (name := getattr(data, "labels", None)) is not None:
            table = LabelTable.load(name)
            self.check_classes("data", len(table.names), table)
        if stage == "fit" and getattr(data, "unlabelled", None) is not None:
            self._check_unlabelled()
        if stage != "fit" or self.distiller is None:
            return
        epochs, last = self.trainer.max_epochs, self.phases[-1]
        if not self.trainer.fast_dev_run and epochs is not None and 0 <= epochs <= last.start:  # type: ignore[attr-defined]
            raise DistillerError(f"trainer.max_epochs is {epochs}; the phase {last.name} starts after {last.start}")
        labelled = (phase.start for phase in self.phases if phase.labelled)
        data.unlabelled_epochs = next(labelled, epochs)
        teacher = self.teachers[0]
        if isinstance(teacher, StoredTeacher):
            data.use_soft_labels(teacher.store)
        elif self.trainer.is_global_zero:
            self.distiller.prepare(self._preparation(teacher))

    def _check_unlabelled(self) -> None:
        """Raise DistillerError where frames without labels would teach nothing."""
        if self.distiller is None:
            raise DistillerError(
                "data.init_args.unlabelled: frames without labels teach nothing without a teacher; name "
                "model.distiller and model.teacher"
            )
        if self.distiller.reads_labels:
            fit = sorted(method.__name__ for method in Distiller.__subclasses__() if not method.reads_labels)
            raise DistillerError(
                f"data.init_args.unlabelled: {type(self.distiller).__name__} learns from labels, and these frames have "
                f"none; methods that fit: {', '.join(fit)}"
            )

    def _preparation(self, teacher: Teacher) -> Preparation:
        trainer: Any = self.trainer
        teacher = teacher.to(trainer.strategy.root_device)
        loader = trainer.datamodule.train_dataloader()
        steps = min(len(loader), int(trainer.fast_dev_run) or len(loader))

        def epoch() -> Iterator[Tensor]:
            for images, *_ in islice(loader, steps):
                yield images.to(trainer.strategy.root_device)

        return Preparation(teacher, epoch, steps, None if trainer.fast_dev_run else Path(trainer.default_root_dir))

    def check_classes(self, who: str, count: int, table: LabelTable | None) -> None:
        """Raise ClassTableError where `who` knows other classes than this network, or as many in another order."""
        own = self.table.names
        if count != len(own):
            raise ClassTableError(f"{who}: {count} classes; model.labels has {len(own)} ({', '.join(own[:4])} …)")
        for index, (name, expected) in enumerate(zip(table.names if table else own, own, strict=True)):
            if name != expected:
                raise ClassTableError(f"{who}: class {index} is {name}; in model.labels it is {expected}")

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes, H, W) of images (B, 3, H, W) uint8."""
        normalised = self.normalise(images).to(memory_format=torch.channels_last)
        with self._arithmetic():
            return self.network(normalised)

    def on_train_epoch_start(self) -> None:
        self.phase = [phase for phase in self.phases if phase.start <= self.current_epoch][-1]
        if self.distiller is not None:
            self.distiller.begin_epoch(self.phase, self.network)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # Drop-path draws from the global generator: tied to the batch, a resumed run draws the same.
        # Processes draw each for itself, or all would drop the same paths.
        batch_seed = (self.hparams["seed"] * 10_007 + self.current_epoch) * 100_003 + batch_idx
        torch.manual_seed(batch_seed + self.global_rank * RANK_STRIDE)

    def on_fit_start(self) -> None:
        for teacher in self.teachers:
            teacher.to(self.device)
        if self.class_weights is not None:
            self.class_weights = self.class_weights.to(self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["label_table"] = {"classes": self.table.to_json(), "ignore_id": self.table.ignore_id}

    def on_train_start(self) -> None:
        if self.hparams["compile"]:  # after the costs were counted, which a compiled network hides
            compile_parts(self.network)

    def losses(self, images: Tensor, labels: Tensor, soft: Tensor | None = None) -> dict[str, Tensor]:
        """Every loss by name that counts in the phase, weighted: the cross-entropy and the distiller's.

        `images` (B, 3, H, W) and `labels` (B, H, W) uint8; `soft` (B, classes, h, w), the soft labels of a stored
        teacher. Without a labelled pixel the cross-entropy is zero.
        """
        target = labels.long()
        normalised = self.normalise(images).to(memory_format=torch.channels_last)
        with self._arithmetic():
            student = run_tapped(self.network, normalised)
        student = replace(student, logits=student.logits.float())  # once for all losses
        losses: dict[str, Tensor] = {}
        if self.phase.labelled:
            losses["cross_entropy"] = cross_entropy(student.logits, target, self.class_weights)
        if self.distiller is not None and self.phase.taught:
            losses |= self.distiller(student, self.shown_by_teacher(images, soft), target)
        return losses

    def shown_by_teacher(self, images: Tensor, soft: Tensor | None = None) -> Taps:
        """What the distiller sees of the teacher, for the same images and soft labels as `losses`."""
        return self.teachers[0](images, soft, logits=self.distiller is not None and self.distiller.needs_classes)

    def training_step(self, batch: tuple[Tensor, ...]) -> Tensor:
        losses = self.step_losses = self.losses(*batch)
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            raise LossError(f"{_not_finite(losses)} at step {self.global_step}: lower model.lr")
        self.log_dict({f"loss/{name}": loss for name, loss in losses.items()})
        self.log("loss/total", total, prog_bar=True)
        return total

    def on_before_backward(self, loss: Tensor) -> None:
        self.step_losses = {}  # callbacks have seen them; they hold the step's graph

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """What callbacks look at: `logits` (B, classes, H, W) float of the images, and `mask` (B, h, w) uint8 of the
        labels' size, which is counted."""
        images, labels = batch
        logits = self(images).float()
        mask = at_size(logits.argmax(1).to(torch.uint8), labels)
        self.confusion.update(mask, labels.long())
        return {"logits": logits, "mask": mask}

    def on_validation_epoch_end(self) -> None:
        iou, accuracy = iou_of(self.confusion.compute())
        self.confusion.reset()
        # `compute` has already added up the processes, so that sync_dist changes nothing but Lightning's opinion.
        self.log_dict({"val_miou": iou.nanmean(), "val_pixel_accuracy": accuracy}, prog_bar=True, sync_dist=True)
        by_class = {f"val_iou/{name}": value for name, value in zip(self.table.names, iou, strict=True)}
        self.log_dict(by_class, sync_dist=True)

    def configure_optimizers(self) -> Any:
        hp: Any = self.hparams
        encoder = list(self.network.encoder.parameters())
        head = [*self.network.decoder.parameters(), *self.network.segmentation_head.parameters()]
        own = [] if self.distiller is None else [p for p in self.distiller.parameters() if p.requires_grad]
        parts = {"encoder": (encoder, hp.lr * hp.encoder_lr_scale), "head": (head + own, hp.lr)}
        groups = [
            {"params": group, "lr": lr, "name": f"{part}{suffix}"} | decay
            for part, (parameters, lr) in parts.items()
            for group, suffix, decay in _by_decay(parameters, hp.decay_norms)
        ]
        optimiser: torch.optim.Optimizer
        if hp.optimiser == "sgd":
            optimiser = torch.optim.SGD(groups, momentum=MOMENTUM, weight_decay=hp.weight_decay)
        else:
            optimiser = torch.optim.AdamW(groups, weight_decay=hp.weight_decay)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, self._lr_factor())
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step", "name": "lr"}}

    def _lr_factor(self) -> Callable[[int], float]:
        """The share of the peak learning rate at a step: warm-up and decay of the phase that the step is in."""
        hp: Any = self.hparams
        total = int(self.trainer.estimated_stepping_batches)
        starts = (phase.start * total // (self.trainer.max_epochs or 1) for phase in self.phases)
        first = [start for start in starts if start < total]

        def factor(step: int) -> float:
            index = bisect_right(first, step) - 1
            begin, end = first[index], [*first[1:], total][index]
            warm = min(1.0, (step - begin + 1) / hp.warmup_steps)
            return self.phases[index].lr_scale * warm * max(0.0, 1 - (step - begin) / (end - begin)) ** hp.power

        return factor


def cross_entropy(logits: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """The mean over the labelled pixels of (B, classes, H, W) logits; zero, with a gradient of zero, where none is."""
    if (target == IGNORE).all():
        return logits.sum() * 0
    return F.cross_entropy(logits, target, weights, ignore_index=IGNORE)


def _by_decay(parameters: list[Tensor], decay_norms: bool) -> list[tuple[list[Tensor], str, dict[str, float]]]:
    """(parameters, suffix of the group's name, options) of those that the optimiser's weight decay pulls at, and of the
    others."""
    if decay_norms:
        return [(parameters, "", {})]
    decayed = [parameter for parameter in parameters if parameter.dim() > 1]
    spared = [parameter for parameter in parameters if parameter.dim() <= 1]
    return [(decayed, "", {}), (spared, "_undecayed", {"weight_decay": 0.0})]


def _not_finite(losses: dict[str, Tensor]) -> str:
    bad = [f"loss/{name} is {loss.item()}" for name, loss in losses.items() if not torch.isfinite(loss)]
    return ", ".join(bad) or "the sum of the losses is not finite"


def at_size(maps: Tensor, labels: Tensor) -> Tensor:
    """Maps (B, H, W) at the size of labels (B, h, w): each pixel is that of the nearest."""
    return F.interpolate(maps[:, None], size=labels.shape[-2:], mode="nearest-exact")[:, 0]


def iou_of(confusion: Tensor) -> tuple[Tensor, Tensor]:
    """IoU per class (classes,), NaN where a class is absent, and pixel accuracy, of a confusion matrix."""
    hits = confusion.diag().float()
    union = (confusion.sum(0) + confusion.sum(1)).float() - hits
    return hits / union, hits.sum() / confusion.sum()
