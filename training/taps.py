"""What a distiller may look at while a network runs: logits, stage maps, patch embeddings.

Networks stay unmodified. A network is run part by part (encoder, decoder, head), so that its maps are there to be kept
and each part may be compiled; forward hooks look at patch embeddings alone, for one call, and are gone when it ends,
whatever happens.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from segmentation_models_pytorch.encoders.mix_transformer import OverlapPatchEmbed as MixPatchEmbed
from timm.models.pvt_v2 import OverlapPatchEmbed as PyramidPatchEmbed
from torch import Tensor, nn

STAGES = 4


class TapError(ValueError):
    """A network that cannot be tapped; the text says why."""


@dataclass(frozen=True)
class Taps:
    """What one forward pass showed. The tensors are the network's own or views of them, never copies.

    `logits` (B, classes, H, W) float; `image` (B, 3, H, W) float, normalised, what the encoder was given; `stages`,
    four maps (B, C, h, w) from fine to coarse (strides 4, 8, 16, 32 unless the encoder is dilated); `patches`, the
    token sequences (B, h·w, C) right after each stage's overlapping patch embedding, none for a CNN.
    """

    logits: Tensor
    image: Tensor
    stages: tuple[Tensor, ...]
    patches: tuple[Tensor, ...]


@dataclass(frozen=True)
class Widths:
    """Channels of a network's taps, known before it runs: four of `stages`, and as many or none of `patches`."""

    classes: int
    stages: tuple[int, ...]
    patches: tuple[int, ...]


def widths(network: nn.Module) -> Widths:
    """The channels of what `run_tapped` will show of a network of `training.networks`. Raises TapError."""
    encoder: Any = network.encoder
    stages = tuple(channels for channels in encoder.out_channels[1:] if channels)[-STAGES:]
    if len(stages) < STAGES:
        raise TapError(f"an encoder of {len(stages)} stages cannot be distilled; {STAGES} are needed")
    head: Any = network.segmentation_head
    classes = head[0].out_channels
    return Widths(classes, stages, tuple(embedding.proj.out_channels for embedding in _patch_embeddings(encoder)))


def run_tapped(network: nn.Module, image: Tensor, logits: bool = True) -> Taps:
    """Run a network on normalised images (B, 3, H, W) float and keep what a distiller may look at.

    Without `logits` only its encoder runs, and they are empty.
    Works inside DistributedDataParallel (which wraps the module that owns the network), and with a network of
    `compile_parts`. Raises TapError where torch.compile has wrapped more than that: a graph that is fixed has no hooks.
    """
    parts: Any = network
    embeddings = _patch_embeddings(parts.encoder)
    if _is_compiled(network) or any(_is_compiled(module) for module in _around(embeddings, parts.encoder)):
        raise TapError("a network wrapped by torch.compile cannot be tapped: its graph has no hooks; set model.compile")
    seen: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        seen[module] = output

    parts.check_input_shape(image)
    handles = [module.register_forward_hook(keep) for module in embeddings]
    try:
        features = parts.encoder(image)
    finally:
        for handle in handles:
            handle.remove()
    scores = parts.segmentation_head(parts.decoder(features)) if logits else image.new_empty(0)
    maps = [stage for stage in features[1:] if stage.shape[1]]
    return Taps(scores, image, tuple(maps[-STAGES:]), tuple(_tokens(module, seen[module]) for module in embeddings))


def compile_parts(network: nn.Module, **options: Any) -> None:
    """Compile a network in place, as far as it can still be tapped: decoder, head, and of the encoder all but patch
    embeddings and what contains them. `options` are those of torch.compile. State dicts keep their names.
    """
    parts: Any = network
    around = _around(_patch_embeddings(parts.encoder), parts.encoder)
    for module in (*_largest_without(around, parts.encoder), parts.decoder, parts.segmentation_head):
        module.compile(**options)


def _largest_without(around: set[nn.Module], module: nn.Module) -> Iterator[nn.Module]:
    """The largest modules in `module` that are not of `around` and are called: a list of modules never is."""
    if module not in around and not isinstance(module, nn.ModuleList):
        yield module
    elif not isinstance(module, (MixPatchEmbed, PyramidPatchEmbed)):
        for child in module.children():
            yield from _largest_without(around, child)


def _around(embeddings: list[nn.Module], encoder: nn.Module) -> set[nn.Module]:
    """The patch embeddings and every module of the encoder that contains one."""
    return {module for module in encoder.modules() if any(it in embeddings for it in module.modules())}


def _is_compiled(module: nn.Module) -> bool:
    return hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None


def _patch_embeddings(encoder: nn.Module) -> list[Any]:
    """The overlapping patch embeddings of MiT (segmentation_models_pytorch) and PVTv2 (timm), stage 1 first."""
    return [module for module in encoder.modules() if isinstance(module, (MixPatchEmbed, PyramidPatchEmbed))]


def _tokens(module: nn.Module, embedded: Tensor) -> Tensor:
    """What a patch embedding gives out as (B, h·w, C): MiT keeps (B, C, h, w), PVTv2 (B, h, w, C)."""
    if isinstance(module, MixPatchEmbed):
        return embedded.flatten(2).transpose(1, 2)
    return embedded.flatten(1, 2)
