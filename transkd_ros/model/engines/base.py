"""What every engine shares: the Runtime protocol, its result, and how devices and precisions are chosen.

An engine is a module of this package with three functions: `devices()` lists what it can use on this machine, its
best device first, `precisions(device)` what one computes in, the likely fastest first, and `load(bundle, options)`
makes a Runtime. `open_runtime` in the package's `__init__` picks among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np


class RuntimeUnavailable(RuntimeError):  # noqa: N818
    """This machine cannot run the bundle as asked; the text is one line that says what is missing."""


class Prediction(NamedTuple):
    """`mask` (H, W) uint8 class ids; `confidence` (H, W) uint8, 255 = certain, or None. The caller's own."""

    mask: np.ndarray
    confidence: np.ndarray | None


class Runtime(Protocol):
    """A loaded graph that turns images of one size into masks. From any thread, but one call at a time."""

    engine: str
    device: str
    precision: str
    input_size: tuple[int, int]  # (H, W)
    reason: str  # which engine was chosen and why, for the log

    def infer(self, image: np.ndarray) -> Prediction:
        """Segment `image`, (H, W, 3) uint8 RGB, contiguous, of `input_size`; ValueError for any other."""
        ...

    def close(self) -> None:
        """Release the engine's memory. `infer` must not be called afterwards."""
        ...


class Candidate(NamedTuple):
    """One way to run a bundle here: one of an engine's devices, in one of its precisions."""

    engine: str
    device: str
    precision: str

    def __str__(self) -> str:
        return " ".join(self)


class LoadOptions(NamedTuple):
    """How a graph is to be loaded; every engine's `load(bundle, options)` takes one."""

    device: str  # one of the engine's devices()
    precision: str  # one of the device's precisions(); "int8" only if the bundle has a quantised graph
    input_size: tuple[int, int]  # (H, W)
    threads: int  # CPU threads; 0 = the engine's own choice
    outputs: tuple[str, ...]  # ("mask",) or ("mask", "confidence")


def choose_device(engine: str, requested: str, available: Sequence[str]) -> str:
    """`requested`, in any case, among `available`. RuntimeUnavailable if not there."""
    for device in available:
        # "gpu" is the first of GPU.0, GPU.1
        if requested.lower() in (device.lower(), device.lower().split(".")[0]):
            return device
    raise RuntimeUnavailable(f"{engine} has no device {requested!r} here; it has {', '.join(available)}")


def choose_precisions(engine: str, device: str, requested: str, available: Sequence[str]) -> Sequence[str]:
    """`requested` if it is `available`; "auto" is all there are. RuntimeUnavailable if not there."""
    if requested == "auto":
        return available
    if requested not in available:
        raise RuntimeUnavailable(f"{engine} on {device} has no {requested}; it has {', '.join(available)}")
    return [requested]


def check_image(image: np.ndarray, input_size: tuple[int, int]) -> None:
    """Raise ValueError unless `image` is (H, W, 3) uint8, C-contiguous and of `input_size` (H, W)."""
    if image.shape != (*input_size, 3) or image.dtype != np.uint8 or not image.flags.c_contiguous:
        raise ValueError(
            f"infer() takes a contiguous uint8 image of shape {(*input_size, 3)}, "
            f"not {image.dtype} {image.shape}"
        )
