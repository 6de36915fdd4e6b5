"""How the losses of a step pull at the encoder: how hard each, and how far in the direction of the cross-entropy."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

LABELS = "cross_entropy"


class GradientLog(Callback):
    """Logs, for every loss of a step by its name, `gradient_norm/NAME` and `gradient_cosine/NAME`.

    The norm is that of the loss's gradient with respect to the encoder's parameters, the cosine the one with the
    gradient of the cross-entropy; both of the weighted losses, before clipping, averaged over processes. A step that is
    looked at costs one more backward pass per loss; one with a single loss is not looked at. `means` are those over the
    run.

    Args:
        every_n_steps: how often; 0 is never.
    """

    def __init__(self, every_n_steps: int = 200) -> None:
        self.every_n_steps = every_n_steps
        self.latest = -1
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    @property
    def means(self) -> dict[str, float]:
        return {name: total / self.counts[name] for name, total in self.sums.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self.sums, "counts": self.counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sums, self.counts = state["sums"], state["counts"]

    def setup(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        if self.every_n_steps and module.hparams["compile"]:
            import torch._functorch.config as compiled

            compiled.donated_buffer = False  # a graph of donated buffers goes backward once only

    def on_before_backward(self, trainer: L.Trainer, module: Any, loss: Tensor) -> None:
        step = trainer.global_step
        if not self.every_n_steps or step % self.every_n_steps or step == self.latest or len(module.step_losses) < 2:
            return
        self.latest = step  # of the batches whose gradients are accumulated, the first
        values = _compared(_gradients(trainer, module))
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1
        for logger in trainer.loggers:  # `log` would wait for the steps that log_every_n_steps chooses
            logger.log_metrics(values, step)


def _gradients(trainer: Any, module: Any) -> dict[str, Tensor]:
    """The gradient of each loss of the step by the encoder's parameters, (parameters,) float32; none if frozen."""
    parameters = [parameter for parameter in module.network.encoder.parameters() if parameter.requires_grad]
    if not parameters:
        return {}
    scaler = getattr(trainer.precision_plugin, "scaler", None)  # without it, fp16 loses small gradients
    scale = 1.0 if scaler is None else scaler.get_scale()
    found = {}
    for name, loss in module.step_losses.items():
        if not loss.requires_grad:  # of a batch without labels, say
            continue
        parts = torch.autograd.grad(loss * scale, parameters, retain_graph=True, allow_unused=True)
        flat = [
            torch.zeros_like(parameter).flatten() if part is None else part.flatten()
            for part, parameter in zip(parts, parameters, strict=True)
        ]
        found[name] = trainer.strategy.reduce(torch.cat(flat).float() / scale, reduce_op="mean")
    return found


def _compared(gradients: dict[str, Tensor]) -> dict[str, float]:
    """Norms, and cosines where both gradients have a direction. What overflowed in fp16 is left out."""
    norms = {name: float(value.norm()) for name, value in gradients.items() if value.isfinite().all()}
    values = {f"gradient_norm/{name}": norm for name, norm in norms.items()}
    if norms.get(LABELS):
        for name in norms.keys() - {LABELS}:
            if norms[name]:
                cosine = torch.cosine_similarity(gradients[name], gradients[LABELS], dim=0)
                values[f"gradient_cosine/{name}"] = float(cosine)
    return values
