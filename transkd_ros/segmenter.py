"""Frame in, mask out, with the time of every stage. Knows nothing of ROS: the node's worker calls it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from transkd_ros.cli import one_line
from transkd_ros.frames import Frame, resize_mask
from transkd_ros.model.engines import Runtime

MASK_SIZES = ("frame", "model")


class EngineFailure(RuntimeError):  # noqa: N818
    """The engine could not run an image that it should have; the text is one line."""


@dataclass(frozen=True)
class Segmentation:
    """The answer to one frame.

    `mask` (H, W) uint8 class ids and `confidence` (H, W) uint8 (255 = certain), or None where it was not asked for
    or the graph has none; of the frame's size or of the model's. `timings`: seconds in "resize" (which converts to
    RGB, too), "infer" and "upsize"; decoding the message happens before and is timed there.
    """

    mask: np.ndarray
    confidence: np.ndarray | None
    timings: dict[str, float]


class Segmenter:
    """Runs frames of any size through a runtime.

    `mask_size` is "frame" (masks as large as the frame) or "model" (as large as the runtime's input). Raises
    EngineFailure whatever the engine's library throws.
    """

    def __init__(self, runtime: Runtime, mask_size: str = "frame") -> None:
        if mask_size not in MASK_SIZES:
            raise ValueError(f"unknown mask size {mask_size!r}; choose {' or '.join(MASK_SIZES)}")
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
        if self.mask_size == "frame":
            mask = resize_mask(mask, frame.size)
            confidence = None if confidence is None else resize_mask(confidence, frame.size)
        end = time.perf_counter()
        timings = {"resize": resized - start, "infer": inferred - resized, "upsize": end - inferred}
        return Segmentation(mask, confidence, timings)
