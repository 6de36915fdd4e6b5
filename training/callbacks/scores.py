"""Scores of a validation beside the mIoU: loss, high-precision accuracy, spread over images, and the teacher's mIoU."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import CatMetric, MeanMetric
from torchmetrics.classification import MulticlassConfusionMatrix
from torchmetrics.functional.classification import multiclass_confusion_matrix

from training.data.samples import IGNORE
from training.module import SegmentationModule, at_size, iou_of
from training.teachers import Teacher

HIGH_CONFIDENCE = 0.9


class ValidationScores(Callback):
    """Logs after every validation:

    - `val_loss`: the cross-entropy per labelled pixel, at the size of the logits and without class weights, so that
      recipes compare;
    - `val_high_precision_accuracy`: the share of the labelled pixels that are right with a probability of at least
      HIGH_CONFIDENCE (Spirit Distillation, arXiv 2103.13733);
    - `val_miou_variance`: the variance, over the images that have labels, of an image's own mIoU.
    """

    def __init__(self) -> None:
        self.loss, self.sure_and_right = MeanMetric(), MeanMetric()
        self.image_miou = CatMetric(nan_strategy="ignore")  # an image may be unlabelled

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        for metric in (self.loss, self.sure_and_right, self.image_miou):
            metric.to(module.device)
            metric.reset()

    def on_validation_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        logits, mask, labels = outputs["logits"], outputs["mask"], batch[1]
        target = at_size(labels, logits).long()
        loss = F.cross_entropy(logits, target, ignore_index=IGNORE)  # not a number without a labelled pixel
        self.loss.update(loss.nan_to_num(), (target != IGNORE).sum())
        labelled = labels != IGNORE
        confidence = at_size(logits.softmax(1).amax(1), labels)
        sure_and_right = (mask == labels) & (confidence >= HIGH_CONFIDENCE)
        self.sure_and_right.update(sure_and_right[labelled].float().mean().nan_to_num(), labelled.sum())
        for own, truth in zip(mask, labels.long(), strict=True):
            iou, _ = iou_of(multiclass_confusion_matrix(own, truth, logits.shape[1], ignore_index=IGNORE))
            self.image_miou.update(iou.nanmean()[None])  # processes gather vectors, not scalars

    def on_validation_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        scores = {
            "val_loss": self.loss.compute(),
            "val_high_precision_accuracy": self.sure_and_right.compute(),
            "val_miou_variance": torch.as_tensor(self.image_miou.compute()).var(correction=0),
        }
        # `compute` has already added up the processes, so that sync_dist changes nothing but Lightning's opinion.
        module.log_dict(scores, sync_dist=True)


class TeacherScore(Callback):
    """Measures the teacher on the validation split, once in a run, beside the first validation of its student.

    `miou` is None before that, and for a teacher of other classes than the student's.
    """

    def __init__(self) -> None:
        self.miou: float | None = None
        self.confusion: MulticlassConfusionMatrix | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"miou": self.miou}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.miou = state["miou"]

    def on_validation_start(self, trainer: L.Trainer, module: Any) -> None:
        self.confusion = None
        if self.miou is None and not trainer.sanity_checking and _same_classes(module):
            self.confusion = MulticlassConfusionMatrix(len(module.table.names), ignore_index=IGNORE).to(module.device)

    def on_validation_batch_end(
        self, trainer: L.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self.confusion is not None:
            images, labels = batch
            mask = at_size(module.teachers[0](images).logits.argmax(1).to(torch.uint8), labels)
            self.confusion.update(mask, labels.long())

    def on_validation_epoch_end(self, trainer: L.Trainer, module: Any) -> None:
        if self.confusion is None:
            return
        iou: Tensor = iou_of(self.confusion.compute())[0].nanmean()
        self.miou = None if iou.isnan() else iou.item()
        module.log("teacher_val_miou", iou, sync_dist=True)


def _same_classes(module: SegmentationModule) -> bool:
    """Whether the run has a teacher whose masks can be set against the student's labels."""
    teacher = module.teachers[0] if module.teachers else None
    if not isinstance(teacher, Teacher) or teacher.spec.classes != len(module.table.names):
        return False
    return teacher.labels is None or teacher.labels.names == module.table.names
