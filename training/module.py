"""The training loop's view of a student: losses, optimiser, schedule and validation mIoU, for any network."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassConfusionMatrix

from training.networks import NetworkSpec, Normalise, build_network
from transkd_ros.labels import LabelTable

IGNORE = 255


class LossError(ArithmeticError):
    """A loss that is not finite; the text names it."""


class SegmentationModule(L.LightningModule):
    """A network trained on labels.

    Batches are images (B, 3, H, W) uint8 and labels (B, h, w) uint8 with 255 ignored. AdamW with a linear warm-up and
    polynomial decay (power 0.9) to zero over the run; `encoder_lr_scale` slows an encoder that starts from published
    weights. `labels` names the class table of `config/labels`. A loss that is not finite stops the run.
    `seed` is the run's (linked to `seed_everything`).
    """

    network: Any

    def __init__(
        self,
        architecture: str = "segformer",
        encoder: str = "mit_b0",
        encoder_weights: str | None = None,
        labels: str = "camvid",
        lr: float = 1e-3,
        encoder_lr_scale: float = 1.0,
        weight_decay: float = 0.01,
        warmup_steps: int = 100,
        seed: int = 1,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.table = LabelTable.load(labels)
        self.spec = NetworkSpec(architecture, encoder, len(self.table.names))
        self.network = build_network(self.spec, encoder_weights).to(memory_format=torch.channels_last)
        self.normalise = Normalise(self.spec)
        self.confusion = MulticlassConfusionMatrix(len(self.table.names), ignore_index=IGNORE)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, classes, H, W) of images (B, 3, H, W) uint8."""
        return self.network(self.normalise(images).to(memory_format=torch.channels_last))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # Drop-path draws from the global generator: tied to the batch, a resumed run draws the same.
        torch.manual_seed((self.hparams["seed"] * 10_007 + self.current_epoch) * 100_003 + batch_idx)

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        loss = F.cross_entropy(self(images).float(), labels.long(), ignore_index=IGNORE)
        self.log("loss/cross_entropy", loss, prog_bar=True)
        if not torch.isfinite(loss):
            raise LossError(f"loss/cross_entropy is {loss.item()} at step {self.global_step}: lower model.lr")
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        images, labels = batch
        prediction = self(images).argmax(1, keepdim=True).to(torch.uint8)
        prediction = F.interpolate(prediction, size=labels.shape[-2:], mode="nearest-exact").squeeze(1)
        self.confusion.update(prediction, labels.long())

    def on_validation_epoch_end(self) -> None:
        iou, accuracy = iou_of(self.confusion.compute())
        self.confusion.reset()
        self.log_dict({"val_miou": iou.nanmean(), "val_pixel_accuracy": accuracy}, prog_bar=True)
        self.log_dict({f"val_iou/{name}": value for name, value in zip(self.table.names, iou, strict=True)})

    def configure_optimizers(self) -> Any:
        hp: Any = self.hparams
        encoder = list(self.network.encoder.parameters())
        head = [*self.network.decoder.parameters(), *self.network.segmentation_head.parameters()]
        groups = [{"params": encoder, "lr": hp.lr * hp.encoder_lr_scale}, {"params": head, "lr": hp.lr}]
        optimiser = torch.optim.AdamW(groups, weight_decay=hp.weight_decay)
        total = int(self.trainer.estimated_stepping_batches)

        def factor(step: int) -> float:
            return min(1.0, (step + 1) / hp.warmup_steps) * max(0.0, 1 - step / total) ** 0.9

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def iou_of(confusion: Tensor) -> tuple[Tensor, Tensor]:
    """IoU per class (classes,), NaN where a class is absent, and pixel accuracy, of a confusion matrix."""
    hits = confusion.diag().float()
    union = (confusion.sum(0) + confusion.sum(1)).float() - hits
    return hits / union, hits.sum() / confusion.sum()
