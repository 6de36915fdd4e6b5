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


class DeployedNetwork(nn.Module):
    """The graph contract of a bundle around a network.

    Input `image` (1, H, W, 3) uint8 RGB, H and W multiples of the network's size divisor. Outputs `mask` (1, H, W)
    uint8 class ids and `confidence` (1, H, W) uint8, the largest class probability times 255, computed on every
    fourth pixel of a row and a column and interpolated: a softmax over all of them is sixteen times the work.
    """

    def __init__(self, network: nn.Module, spec: NetworkSpec) -> None:
        super().__init__()
        self.normalise = Normalise(spec)
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network(self.normalise(image.permute(0, 3, 1, 2)))
        mask = logits.argmax(1).to(torch.uint8)
        confidence = logits[:, :, 2::4, 2::4].softmax(1).amax(1, keepdim=True)
        confidence = F.interpolate(confidence, scale_factor=4.0, mode="bilinear", align_corners=False).squeeze(1)
        return mask, (confidence * 255).round().to(torch.uint8)


class FoldedSegformerDecoder(nn.Module):
    """SegFormer's head with one 1×1 convolution a stage: projection, its slice of the fusion and the batch norm in one.

    The same function as the trained decoder in eval mode, up to rounding: linear maps of channels commute with
    per-channel bilinear interpolation, whose weights sum to one, so biases pass through as well.
    """

    def __init__(self, decoder: Any) -> None:
        super().__init__()
        fusion, norm = decoder.fuse_stage[0], decoder.fuse_stage[1]
        scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        slices = fusion.weight.flatten(1).chunk(len(decoder.mlp_stage), dim=1)
        bias = norm.bias - norm.running_mean * scale
        self.stages = nn.ModuleList()
        for mlp, weight in zip(decoder.mlp_stage, slices, strict=True):
            fused = scale[:, None] * weight
            stage: Any = nn.Conv2d(mlp.linear.in_features, fusion.out_channels, kernel_size=1)
            stage.weight.data = (fused @ mlp.linear.weight)[:, :, None, None]
            stage.bias.data = fused @ mlp.linear.bias + (0 if self.stages else bias)  # the norm's, once
            self.stages.append(stage)

    def forward(self, features: list[Tensor]) -> Tensor:
        height, width = features[0].shape[-2:]
        size = (height // 4, width // 4)
        maps = [stage for stage in features[1:] if stage.shape[1] > 0][::-1]
        fused: Tensor | None = None
        for index, (convolution, stage) in enumerate(zip(self.stages, maps, strict=True)):
            stride = 32 >> index
            if stride < 4:
                stage = F.avg_pool2d(stage, 2)  # what bilinear interpolation to half the size is
            part = convolution(stage)
            if stride > 4:
                part = F.interpolate(part, size=size, mode="bilinear", align_corners=False)
            fused = part if fused is None else fused + part
        assert fused is not None
        return F.relu(fused)


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
