"""The front part of a CNN encoder, and its compact form: grouped convolutions (Spirit Distillation, arXiv 2103.13733).

The front is all that an encoder computes up to its map of stride 16, the third of a network's taps. What is learned in
it, and from whom, is the business of `training.distillers.spirit`.
"""

from __future__ import annotations

from math import gcd
from typing import Any

import torch
from torch import nn

from training.pretrained import NetworkError

FRONT_STAGE = 4
"""Which of an encoder's maps ends the front: number i has stride 2^i."""
PROBE = 64
"""Height and width of the image that is sent through an encoder to see what it runs."""


def front_modules(encoder: nn.Module) -> list[str]:
    """Names of the front's modules, in the order in which a forward pass is through with them, leaves and blocks alike.

    Raises NetworkError for an encoder with attention, or one whose map of stride 16 no module of it gives out.
    """
    if any("Attention" in type(module).__name__ for module in encoder.modules()):
        raise NetworkError("an encoder with attention layers has no front; model.front_groups is for CNN encoders")
    outputs, maps = _run(encoder)
    if len(maps) > FRONT_STAGE:
        for last in reversed(range(len(outputs))):  # the last: an activation may work in place on the one before
            if outputs[last][1] is maps[FRONT_STAGE]:
                return list(dict.fromkeys(name for name, _ in outputs[: last + 1]))
    raise NetworkError(f"{type(encoder).__name__}: no module gives out the map of stride 16, which ends a front part")


def _run(encoder: nn.Module) -> tuple[list[tuple[str, Any]], list[torch.Tensor]]:
    """What each module gives out for an image, by its name and in order, and the encoder's maps."""
    outputs: list[tuple[str, Any]] = []

    def note(name: str) -> Any:
        return lambda module, inputs, output: outputs.append((name, output))

    handles = [module.register_forward_hook(note(name)) for name, module in encoder.named_modules() if name]
    training = encoder.training
    encoder.eval()
    try:
        with torch.no_grad():
            maps = encoder(torch.zeros(1, 3, PROBE, PROBE, device=next(encoder.parameters()).device))
    finally:
        encoder.train(training)
        for handle in handles:
            handle.remove()
    return outputs, maps


def group_front(encoder: nn.Module, groups: int) -> None:
    """Make the dense convolutions of the front grouped ones, in place, with new random weights. Maps keep their shapes.

    Each gets the largest number of groups that divides its channels and `groups`. Dense stays one that narrows to
    another number of channels than the one before it that narrows, as the first block of a stage has it: there the
    groups mix **[ours]**. Raises NetworkError where there is no front, or nothing in it to group.
    """
    grouped, narrow = False, 0
    for name in front_modules(encoder):
        convolution = encoder.get_submodule(name)
        if not isinstance(convolution, nn.Conv2d) or convolution.groups > 1:
            continue
        given, made = convolution.in_channels, convolution.out_channels
        mixes = made < given and made != narrow
        if made < given:
            narrow = made
        if not mixes and (common := gcd(given, made, groups)) > 1:
            _group(convolution, common)
            grouped = True
    if not grouped:
        raise NetworkError(f"model.front_groups is {groups}: it divides the channels of no convolution of the front")


def _group(convolution: nn.Conv2d, groups: int) -> None:
    """Changed rather than replaced, so that it stays what it is: of its class, with its padding and stride."""
    convolution.groups = groups
    made, given, *kernel = convolution.weight.shape
    convolution.weight = nn.Parameter(convolution.weight.new_empty(made, given // groups, *kernel))
    convolution.reset_parameters()
