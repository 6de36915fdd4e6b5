"""The translator of Knowledge Adaptation: an auto-encoder of a teacher's map, its training, and its file.

arXiv 1903.04688; what a student learns from the code is in `training.distillers.knowledge_adaptation`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save
from torch import Tensor, nn

from training.distillers.base import DistillerError, Preparation
from training.distillers.maps import BatchNorm, Standardise
from transkd_ros import cli
from transkd_ros.files import write_atomic

LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, POWER = 0.1, 0.9, 1e-4, 0.9
CLIP_NORM = 1.0
SPARSITY = 1e-7
REMEDY = "remove it, or choose another trainer.default_root_dir or distiller.init_args.auto_encoder"


def block(convolution: nn.Conv2d | nn.ConvTranspose2d) -> nn.Sequential:
    """A convolution, batch norm and ReLU."""
    return nn.Sequential(convolution, BatchNorm(convolution.out_channels), nn.ReLU())


class Encoder(nn.Module):
    """Three 3×3 convolutions of `width` channels and these `strides`, each with batch norm and ReLU **[ours]**.

    In front of them every channel of the map is standardised by its mean and variance over the training images, so
    that a learning rate of 0.1 fits maps of any scale **[ours]**. Frozen, by `requires_grad_(False)`, it stays in eval
    mode: its batch norms do not move.
    """

    def __init__(self, channels: int, width: int, strides: tuple[int, int, int]) -> None:
        super().__init__()
        self.channels, self.width, self.strides = channels, width, strides
        self.standardise = Standardise(channels)
        inputs = zip((channels, width, width), strides, strict=True)
        self.layers = nn.Sequential(*(block(nn.Conv2d(c, width, 3, stride, 1, bias=False)) for c, stride in inputs))

    def train(self, mode: bool = True) -> Encoder:
        return super().train(mode and next(self.parameters()).requires_grad)

    def forward(self, maps: Tensor) -> Tensor:
        """The code (B, width, h', w'), not negative, of a teacher's map (B, channels, h, w): h' = h / strides, up."""
        return self.layers(self.standardise(maps))

    def decoder(self) -> nn.Sequential:
        """A new decoder: three transposed convolutions back, batch norm and ReLU between them, the last one linear.

        A code (B, width, h', w') becomes (B, channels, H, W), larger by the product of the strides. Where that does not
        divide h and w, it is more than the map had, at the lower and right border.
        """
        layers = []
        for stride, width in zip(reversed(self.strides), (self.width, self.width, self.channels), strict=True):
            layers.append(nn.ConvTranspose2d(self.width, width, 3, stride, 1, output_padding=stride - 1))
        return nn.Sequential(*map(block, layers[:-1]), layers[-1])


def reconstruction_losses(encoder: Encoder, decoder: nn.Module, maps: Tensor) -> tuple[Tensor, Tensor]:
    """What is minimised, and the reconstruction error, two scalars, of a teacher's map (B, channels, h, w).

    Minimised is the squared error of the standardised map plus 1e-7 times the code's L1 norm, both summed, over
    channels too, and divided by the map's B·h·w positions **[ours]**. The reconstruction error is the mean over all
    values of the squared error alone: 1 is that of guessing every channel's mean.
    """
    standardised = encoder.standardise(maps)
    code = encoder.layers(standardised)
    height, width = maps.shape[-2:]
    error = (decoder(code)[..., :height, :width] - standardised).square().mean()
    return encoder.channels * (error + SPARSITY * code.abs().sum() / maps.numel()), error


def train(encoder: Encoder, run: Preparation, epochs: int) -> tuple[float, float]:
    """Train an encoder, with a decoder of its own, on the teacher's last map, then freeze it.

    SGD with the paper's learning rate 0.1 and weight decay 1e-4; momentum 0.9, gradients clipped to a norm of 1 and
    polynomial decay to zero over the epochs **[ours]**. Leaves the global random generator as it was. Returns the
    reconstruction errors of the first and of the last batch; raises DistillerError where the last is not finite.
    """
    device = next(run.teacher.parameters()).device
    with torch.random.fork_rng(devices=[]):  # weights are drawn on the CPU
        decoder = encoder.decoder().to(device)
    parameters = [*encoder.to(device).requires_grad_(True).train().parameters(), *decoder.parameters()]
    optimiser = torch.optim.SGD(parameters, LEARNING_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.PolynomialLR(optimiser, epochs * run.steps, POWER)
    batches = chain.from_iterable(run.epoch() for _ in range(epochs))
    errors: list[Tensor] = []
    with cli.progress() as progress:
        for images in progress.track(batches, total=epochs * run.steps, description="auto-encoder"):
            loss, error = reconstruction_losses(encoder, decoder, run.teacher(images).stages[-1])
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
            optimiser.step()
            schedule.step()
            errors.append(error.detach())
    encoder.requires_grad_(False).eval()
    first, last = errors[0].item(), errors[-1].item()
    if not math.isfinite(last):
        raise DistillerError(
            f"auto-encoder: the reconstruction error of the last of {len(errors)} batches is {last}, that of the first "
            f"{first}: look at the teacher {run.teacher.source}, or raise model.teacher.precision"
        )
    return first, last


def write(path: Path, encoder: Encoder, identity: Mapping[str, str], about: Mapping[str, str]) -> None:
    """Write the encoder as safetensors; its `identity` (see `read`) and `about` are the file's metadata."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, save(encoder.state_dict(), {**about, **identity}))


def read(path: Path, encoder: Encoder, identity: Mapping[str, str]) -> None:
    """Give the encoder the weights of a file that was written with the same `identity`, and leave it frozen.

    Raises DistillerError for a file that is of another identity (and says what differs), broken, or not there.
    """
    try:
        with safe_open(path, "pt") as file:
            found = file.metadata() or {}
        for name, expected in identity.items():
            if (given := found.get(name, "not said")) != expected:
                differs = f"its {name} is {given[:12]}, this run's is {expected[:12]}"
                raise DistillerError(f"{path} is not this run's auto-encoder: {differs}; {REMEDY}")
        load_model(encoder, path)
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = cli.one_line(error)[:200]
        raise DistillerError(f"{path} cannot be read as an auto-encoder: {reason}; {REMEDY}") from error
