"""Frame in, mask out, with the time of every stage. Knows nothing of ROS: the node's worker calls it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from transkd_ros.cli import one_line
from transkd_ros.frames import MAX_SIDE, Frame, resize_mask
from transkd_ros.model.engines import Runtime

MASK_SIZES = ("frame", "model")
MaskSize = str | tuple[int, int]
"""One of MASK_SIZES, or (height, width) in pixels."""


def mask_size_refusal(value: Any) -> str:
    """Why `value` is no mask size, or "" if it is one (of a sequence, too)."""
    if isinstance(value, str):
        if value in MASK_SIZES:
            return ""
    elif isinstance(value, Sequence) and len(value) == 2:
        if all(type(side) is int and 0 < side <= MAX_SIDE for side in value):
            return ""
        value = list(value)
    return f"mask_size is {value!r}, not one of {', '.join(MASK_SIZES)} or [height, width] in pixels"


class EngineFailure(RuntimeError):  # noqa: N818
    """The engine could not run an image that it should have; the text is one line."""


@dataclass(frozen=True)
class Segmentation:
    """The answer to one frame.

    `mask` (H, W) uint8 class ids and `confidence` (H, W) uint8 (255 = certain), or None where it was not asked for
    or the graph has none; of the size that was asked for. `timings`: seconds in "resize" (which converts to
    RGB, too), "infer" and "upsize"; decoding the message happens before and is timed there.
    """

    mask: np.ndarray
    confidence: np.ndarray | None
    timings: dict[str, float]


class Segmenter:
    """Runs frames of any size through a runtime.

    `mask_size` is "frame" (masks as large as the frame), "model" (as large as the runtime's input), or (height, width).
    Raises ValueError for any other, EngineFailure whatever the engine's library throws.
    """

    def __init__(self, runtime: Runtime, mask_size: MaskSize = "frame") -> None:
        if refusal := mask_size_refusal(mask_size):
            raise ValueError(refusal)
        self.runtime = runtime
        self.mask_size = mask_size

    def __call__(self, frame: Frame, want_confidence: bool = False) -> Segmentation:
        start = time.perf_counter()
        image = frame.rgb(self.runtime.input_size)
        resized = time.perf_counter()
        try:
            mask, confidence = self.runtime.infer(image)
        except Exception as error:  # each library has exceptions of its own
            raise EngineFailure(f"{type(error).__name__}: {one_line(error)}") from error
        inferred = time.perf_counter()
        if not want_confidence:
            confidence = None
        if self.mask_size != "model":
            size = frame.size if isinstance(self.mask_size, str) else self.mask_size
            mask = resize_mask(mask, size)
            confidence = None if confidence is None else resize_mask(confidence, size)
        end = time.perf_counter()
        timings = {"resize": resized - start, "infer": inferred - resized, "upsize": end - inferred}
        return Segmentation(mask, confidence, timings)
