"""What a network computes in int8, simulated while it trains: the forward half of quantisation-aware fine-tuning.

Where `training.quantise` puts quantisers into the graph of a bundle, values are rounded to 8 bits here, and gradients
pass as if they were not (the straight-through estimator of arXiv 1308.3432, as in arXiv 1712.05877). Nothing is learned
about ranges: the export calibrates them as it does without fine-tuning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

STEPS = 255  # of an activation's range
DEPTHWISE, HALF = 127, 64  # of a weight's, on either side of zero; why the half: `training.quantise.quantise`
_WEIGHTED = (F.conv2d, F.linear)
_SUMS = (torch.add, Tensor.add, Tensor.add_, Tensor.__add__, Tensor.__iadd__)


class FakeInt8(TorchFunctionMode):
    """While this context lasts, `network` computes as in int8.

    Inputs and weights of convolutions and linear layers, and the two sides of a sum of maps, are rounded to 8 bits.
    Left in float, as by `training.quantise`: what is interpolated, and its sums; in a network with attention the
    classifier, and the products of two activations. Weights have a scale per output channel, activations one a tensor,
    or a channel before a depthwise convolution if there is no attention. Ranges are those of the batch **[ours]**.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        parts: Any = network
        self._attention = any(isinstance(module, nn.LayerNorm) for module in network.modules())
        self._classifier = parts.segmentation_head[0].weight
        self._interpolated: list[Tensor] = []  # held, so that no other tensor takes the place of one

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function in _WEIGHTED:
            return function(*self._quantised(function, *args), **kwargs)
        if function in _SUMS and _are_maps(*args[:2]):
            if any(args[0] is it or args[1] is it for it in self._interpolated):
                return self._noted(function(*args, **kwargs))
            return torch.add(activation(args[0]), activation(args[1]), **kwargs)
        result = function(*args, **kwargs)
        return self._noted(result) if function is F.interpolate else result

    def _quantised(self, function: Callable[..., Any], inputs: Tensor, weights: Tensor, *others: Any) -> list[Any]:
        """The arguments of a layer, its inputs and weights rounded."""
        if self._attention and weights is self._classifier:
            return [inputs, weights, *others]
        depthwise = function is F.conv2d and weights.shape[1] == 1
        rounded = activation(inputs, per_channel=depthwise and not self._attention)
        return [rounded, weight(weights, DEPTHWISE if depthwise else HALF), *others]

    def _noted(self, interpolated: Tensor) -> Tensor:
        self._interpolated.append(interpolated)
        return interpolated


def _are_maps(*operands: Any) -> bool:
    """Whether both are activations of one shape: no biases, no numbers."""
    return len(operands) == 2 and all(
        isinstance(it, Tensor) and not isinstance(it, nn.Parameter) and it.dim() > 2 and it.shape == operands[0].shape
        for it in operands
    )


def activation(values: Tensor, per_channel: bool = False) -> Tensor:
    """Activations rounded to 255 steps between the least and the largest (and 0) of all, or of each channel (dim 1)."""
    exact = values.float()
    low, high = exact.detach().aminmax() if not per_channel else _range_of_channels(exact.detach())
    low, high = low.clamp_max(0), high.clamp_min(0)
    scale = ((high - low) / STEPS).clamp_min(torch.finfo(torch.float32).eps)
    zero = (-low / scale).round().to(torch.int32)
    if per_channel:
        rounded = torch.fake_quantize_per_channel_affine(exact, scale, zero, 1, 0, STEPS)
    else:
        rounded = torch.fake_quantize_per_tensor_affine(exact, scale, zero, 0, STEPS)
    return rounded.to(values.dtype)


def _range_of_channels(maps: Tensor) -> tuple[Tensor, Tensor]:
    return maps.amin((0, 2, 3)), maps.amax((0, 2, 3))


def weight(values: Tensor, steps: int = HALF) -> Tensor:
    """Weights (out, …) rounded to so many steps on either side of zero, by the largest of each output channel.

    A gain per output channel, such as that of a batch norm that the export folds into them, changes nothing of it.
    """
    largest = values.detach().abs().flatten(1).amax(1)
    scale = (largest / steps).clamp_min(torch.finfo(torch.float32).eps).float()
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(values.float(), scale, zero, 0, -steps, steps)
