"""The graph a vehicle runs, made from a trained network: uint8 image in, uint8 mask out, everything linear folded.

`training.export` writes it into a bundle.
"""

from __future__ import annotations

import copy
from typing import Any

import segmentation_models_pytorch as smp
import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.nn import functional as F

from training.networks import NetworkSpec, Normalise

LIGHT = 4
"""How many times fewer channels than the head a stage needs to be worth convolving at the head's size."""


class DeployedNetwork(nn.Module):
    """The graph contract of a bundle around a network.

    Input `image` (N, H, W, 3) uint8 RGB, H and W multiples of the network's size divisor. Outputs `mask` (N, H, W)
    uint8 class ids and `confidence` (N, H, W) uint8, the largest class probability times 255, computed on every
    fourth pixel of a row and a column and interpolated: a softmax over all of them is sixteen times the work.
    """

    def __init__(self, network: nn.Module, spec: NetworkSpec) -> None:
        super().__init__()
        self.normalise = Normalise(spec)
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        # Transposed first: OpenVINO 2026.4 gets an int8 graph wrong that has a transpose behind its first quantiser.
        logits = self.network(self.normalise(image.permute(0, 3, 1, 2)))
        # Flat, because then engines lay the classes out one after the other, where the arg-max reads along the pixels:
        # over channels-last logits OpenVINO takes twenty times as long.
        mask = logits.flatten(2).argmax(1).view(image.shape[:3]).to(torch.uint8)
        confidence = logits[:, :, 2::4, 2::4].softmax(1).amax(1, keepdim=True)
        confidence = F.interpolate(confidence, scale_factor=4.0, mode="bilinear", align_corners=False).squeeze(1)
        return mask, (confidence * 255).round().to(torch.uint8)


class FoldedSegformerDecoder(nn.Module):
    """SegFormer's head with one 1×1 convolution a stage: projection, its slice of the fusion and the batch norm in one.

    The same function as the trained decoder in eval mode, up to rounding: linear maps of channels commute with
    per-channel bilinear interpolation, whose weights sum to one, so biases pass through as well. A stage is therefore
    interpolated on the side of its convolution that has fewer values, and the stages that come to the head's size
    before it share one convolution, `together`.
    """

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        fusion, norm = decoder.fuse_stage[0], decoder.fuse_stage[1]
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        slices = fusion.weight.flatten(1).chunk(len(decoder.mlp_stage), dim=1)
        fused = [
            (scale[:, None] * weight @ mlp.linear.weight, scale[:, None] * weight @ mlp.linear.bias)
            for mlp, weight in zip(decoder.mlp_stage, slices, strict=True)
        ]
        width = fusion.out_channels
        wide = [32 >> index > 4 and LIGHT * weight.shape[1] > width for index, (weight, _) in enumerate(fused)]
        self.apart = wide.index(False)  # the first so many, from the coarsest on
        self.stages = nn.ModuleList(_pointwise(*stage) for stage in fused[: self.apart])
        weights, biases = zip(*fused[self.apart :], strict=True)
        bias = norm.bias - norm.running_mean * scale  # once
        self.together = _pointwise(torch.cat(weights, dim=1), sum(biases) + bias)

    def forward(self, features: list[Tensor]) -> Tensor:
        height, width = features[0].shape[-2:]
        size = (height // 4, width // 4)
        maps = [stage for stage in features[1:] if stage.shape[1] > 0][::-1]
        fine = [_at_stride_4(stage, 32 >> index, size) for index, stage in enumerate(maps) if index >= self.apart]
        fused = self.together(torch.cat(fine, dim=1))
        for index, convolution in enumerate(self.stages):
            fused = fused + _at_stride_4(convolution(maps[index]), 32 >> index, size)
        return F.relu(fused)


def _pointwise(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    """A 1×1 convolution of `weight` (out, in) and `bias` (out)."""
    convolution = nn.Conv2d(weight.shape[1], weight.shape[0], kernel_size=1)
    convolution.weight.data, convolution.bias.data = weight[:, :, None, None], bias  # type: ignore[union-attr]
    return convolution


def _at_stride_4(maps: Tensor, stride: int, size: tuple[int, int]) -> Tensor:
    """Maps of a stride brought to `size` bilinearly; of stride 2, that is the mean of each four."""
    if stride < 4:
        return F.avg_pool2d(maps, 2)
    return maps if stride == 4 else F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def fold(network: nn.Module) -> nn.Module:
    """A copy of the network in eval mode, cheaper and equal: SegFormer's head folded, "same" padding made constant.

    A network with neither comes back as the copy it is.
    """
    network = copy.deepcopy(network).eval()
    if isinstance(network, smp.Segformer):
        network.decoder = FoldedSegformerDecoder(network.decoder)
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, Conv2dSame):
                setattr(module, name, _with_constant_padding(child))
    return network.requires_grad_(False)


def _with_constant_padding(convolution: Any) -> nn.Sequential:
    """TensorFlow's "same" padding of a Conv2dSame whose input size is a multiple of its stride: then it is constant."""
    padding: list[int] = []
    for kernel, stride, dilation in zip(
        convolution.kernel_size[::-1], convolution.stride[::-1], convolution.dilation[::-1], strict=True
    ):
        total = max((kernel - 1) * dilation + 1 - stride, 0)
        padding += [total // 2, total - total // 2]
    plain = nn.Conv2d(
        convolution.in_channels,
        convolution.out_channels,
        convolution.kernel_size,
        convolution.stride,
        dilation=convolution.dilation,
        groups=convolution.groups,
        bias=convolution.bias is not None,
    )
    plain.load_state_dict(convolution.state_dict())
    return nn.Sequential(nn.ZeroPad2d((padding[0], padding[1], padding[2], padding[3])), plain)
