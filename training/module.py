"""The training loop's view of a student: losses, optimiser, schedule and validation mIoU, whatever the method."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassConfusionMatrix

from training.distillers import Distiller, DistillerError
from training.distillers.base import check_fit
from training.networks import NetworkSpec, Normalise, build_network
from training.taps import run_tapped, widths
from training.teachers import Teacher, TeacherSource, load_teacher
from transkd_ros.labels import LabelTable

IGNORE = 255


class LossError(ArithmeticError):
    """A loss that is not finite; the text names it."""


class ClassTableError(ValueError):
    """Student, teacher and data that are not about the same classes; the text says who differs."""


class SegmentationModule(L.LightningModule):
    """A network trained on labels, and under a teacher by a distillation method where a recipe names both.

    Batches are images (B, 3, H, W) uint8 and labels (B, h, w) uint8 with 255 ignored. AdamW with a linear warm-up and
    polynomial decay to zero over the run. A loss that is not finite stops the run.

    Args:
        architecture: see NetworkSpec; the student's, or the network's that is trained alone.
        encoder: see NetworkSpec.
        encoder_weights: see build_network.
        labels: name of the class table in config/labels.
        distiller: a method of training/distillers; without one the network learns from labels only.
        teacher: whom the distiller looks at.
        class_weights: a factor per class for the cross-entropy, in the order of the class table.
        lr: peak learning rate.
        encoder_lr_scale: slows an encoder that starts from published weights.
        weight_decay: AdamW's.
        warmup_steps: steps of linear warm-up.
        power: of the polynomial decay; 1 is linear.
        seed: the run's (linked to seed_everything).
    """

    network: Any

    def __init__(
        self,
        architecture: str = "segformer",
        encoder: str = "mit_b0",
        encoder_weights: str | None = None,
        labels: str = "camvid",
        distiller: Distiller | None = None,
        teacher: TeacherSource | None = None,
        class_weights: list[float] | None = None,
        lr: float = 1e-3,
        encoder_lr_scale: float = 1.0,
        weight_decay: float = 0.01,
        warmup_steps: int = 100,
        power: float = 0.9,
        seed: int = 1,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["distiller", "teacher"])
        self.table = LabelTable.load(labels)
        self.spec = NetworkSpec(architecture, encoder, len(self.table.names))
        self.network = build_network(self.spec, encoder_weights).to(memory_format=torch.channels_last)
        self.normalise = Normalise(self.spec)
        self.confusion = MulticlassConfusionMatrix(len(self.table.names), ignore_index=IGNORE)
        if class_weights is not None and len(class_weights) != len(self.table.names):
            raise ClassTableError(f"model.class_weights: {len(class_weights)} for {len(self.table.names)} classes")
        self.class_weights = None if class_weights is None else torch.tensor(class_weights)
        self.distiller = distiller
        # In a tuple, so that it is no submodule: it is not trained, synchronised, or saved with the student.
        self.teachers: tuple[Teacher, ...] = ()
        if (distiller is None) != (teacher is None):
            raise DistillerError("model.distiller and model.teacher belong together: a recipe names both or neither")
        if distiller is not None and teacher is not None:
            self.teachers = (load_teacher(teacher),)
            self._check_classes(f"teacher {teacher.source}", self.teachers[0].spec.classes, self.teachers[0].labels)
            student_widths, teacher_widths = widths(self.network), widths(self.teachers[0].network)
            check_fit(distiller, student_widths, teacher_widths)
            distiller.build(student_widths, teacher_widths)

    def setup(self, stage: str) -> None:
        """Raises ClassTableError where the data are of other classes."""
        if (name := getattr(self.trainer.datamodule, "labels", None)) is not None:  # type: ignore[attr-defined]
            table = LabelTable.load(name)
            self._check_classes("data", len(table.names), table)

    def _check_classes(self, who: str, count: int, table: LabelTable | None) -> None:
        own = self.table.names
        if count != len(own):
            raise ClassTableError(f"{who}: {count} classes; model.labels has {len(own)} ({', '.join(own[:4])} …)")
        for index, (name, expected) in enumerate(zip(table.names if table else own, own, strict=True)):
            if name != expected:
                raise ClassTableError(f"{who}: class {index} is {name}; in model.labels it is {expected}")

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes, H, W) of images (B, 3, H, W) uint8."""
        return self.network(self.normalise(images).to(memory_format=torch.channels_last))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # Drop-path draws from the global generator: tied to the batch, a resumed run draws the same.
        torch.manual_seed((self.hparams["seed"] * 10_007 + self.current_epoch) * 100_003 + batch_idx)

    def on_fit_start(self) -> None:
        for teacher in self.teachers:
            teacher.to(self.device)
        if self.class_weights is not None:
            self.class_weights = self.class_weights.to(self.device)

    def losses(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Every loss by name, weighted: the cross-entropy and the distiller's. `labels` (B, H, W) uint8."""
        target = labels.long()
        student = run_tapped(self.network, self.normalise(images).to(memory_format=torch.channels_last))
        logits = student.logits.float()
        losses = {"cross_entropy": F.cross_entropy(logits, target, self.class_weights, ignore_index=IGNORE)}
        if self.distiller is not None:
            losses |= self.distiller(student, self.teachers[0](images), target)
        return losses

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        losses = self.losses(*batch)
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            raise LossError(f"{_not_finite(losses)} at step {self.global_step}: lower model.lr")
        self.log_dict({f"loss/{name}": loss for name, loss in losses.items()})
        self.log("loss/total", total, prog_bar=True)
        return total

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """The masks (B, h, w) uint8 at the labels' size, which are counted."""
        images, labels = batch
        prediction = self(images).argmax(1, keepdim=True).to(torch.uint8)
        prediction = F.interpolate(prediction, size=labels.shape[-2:], mode="nearest-exact").squeeze(1)
        self.confusion.update(prediction, labels.long())
        return prediction

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
        own = [] if self.distiller is None else list(self.distiller.parameters())
        groups = [{"params": encoder, "lr": hp.lr * hp.encoder_lr_scale}, {"params": head + own, "lr": hp.lr}]
        optimiser = torch.optim.AdamW(groups, weight_decay=hp.weight_decay)
        total = int(self.trainer.estimated_stepping_batches)

        def factor(step: int) -> float:
            return min(1.0, (step + 1) / hp.warmup_steps) * max(0.0, 1 - step / total) ** hp.power

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _not_finite(losses: dict[str, Tensor]) -> str:
    bad = [f"loss/{name} is {loss.item()}" for name, loss in losses.items() if not torch.isfinite(loss)]
    return ", ".join(bad) or "the sum of the losses is not finite"


def iou_of(confusion: Tensor) -> tuple[Tensor, Tensor]:
    """IoU per class (classes,), NaN where a class is absent, and pixel accuracy, of a confusion matrix."""
    hits = confusion.diag().float()
    union = (confusion.sum(0) + confusion.sum(1)).float() - hits
    return hits / union, hits.sum() / confusion.sum()
