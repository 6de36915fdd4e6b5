"""Frame in, mask out, with the time of every stage. Knows nothing of ROS: the node's worker calls it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from transkd_ros.cli import one_line
from transkd_ros.frames import Frame
from transkd_ros.model.engines import Prediction, Runtime
from transkd_ros.region import Mapping, Region, crop, fill, mapping, place
from transkd_ros.sizes import Size

MASK_SIZES = ("frame", "model")
MaskSize = str | Size
"""One of MASK_SIZES, or (height, width) in pixels."""


class EngineFailure(RuntimeError):  # noqa: N818
    """The engine could not run an image that it should have; the text is one line."""


@dataclass(frozen=True)
class View:
    """What the network is to see of a frame.

    `image` (H, W, 3) uint8 RGB of the runtime's input size, which shows the region `seen` of the frame within its
    region `inside`. `seconds`: what it took to make it.
    """

    frame: Frame
    image: np.ndarray
    inside: Region
    seen: Region
    want_confidence: bool
    seconds: float


class Inference(NamedTuple):
    """What the network says of a view, and the seconds it took for all that were inferred together."""

    prediction: Prediction
    seconds: float


@dataclass(frozen=True)
class Segmentation:
    """The answer to one frame.

    `mask` (H, W) uint8 class ids and `confidence` (H, W) uint8 (255 = certain), or None where it was not asked for
    or the graph has none; of the size that was asked for. `mapping`: where the points of the frame lie in them.
    `image`: (H, W, 3) uint8 RGB, what the mask is a mask of, if that is the network's view. `timings`: seconds in
    "resize" (which converts to RGB, too), "infer" (of all that were inferred together) and "upsize"; decoding the
    message happens before and is timed there.
    """

    mask: np.ndarray
    confidence: np.ndarray | None
    mapping: Mapping
    image: np.ndarray | None
    timings: dict[str, float]


class Segmenter:
    """Runs frames of any size through a runtime.

    mask_size: "frame" (masks as large as the frame), "model" (as large as the runtime's input, and showing what the
    network saw), or (height, width). letterbox: keep the aspect ratio of what is seen, instead of stretching it.
    ignore_id: of the pixels of a mask that were not seen, or with less confidence than `threshold`, 0 to 1, where the
    graph tells it. wait: for a graph that has to be compiled first, see `Runtime.infer_batch`; else frames have no
    confidence meanwhile.

    Raises ValueError for another name of a mask size, EngineFailure whatever the engine's library throws.
    """

    def __init__(
        self,
        runtime: Runtime,
        mask_size: MaskSize = "frame",
        letterbox: bool = False,
        ignore_id: int = 255,
        threshold: float = 0.0,
        wait: bool = True,
    ) -> None:
        if isinstance(mask_size, str) and mask_size not in MASK_SIZES:
            raise ValueError(f"mask_size is {mask_size!r}, not one of {', '.join(MASK_SIZES)} or (height, width)")
        self.runtime = runtime
        self.mask_size = mask_size
        self.letterbox = letterbox
        self.ignore_id = ignore_id
        self.threshold = threshold
        self.wait = wait

    def __call__(self, frame: Frame, want_confidence: bool = False, region: Region | None = None) -> Segmentation:
        """The mask of a frame, of which only `region` is seen. Raises FrameError if that lies outside."""
        view = self.view(frame, want_confidence, region)
        return self.place(view, self.infer([view])[0])

    def view(self, frame: Frame, want_confidence: bool = False, region: Region | None = None) -> View:
        """What the network is to see of a frame: `region` of it. Raises FrameError if that lies outside."""
        start = time.perf_counter()
        part, seen = crop(frame, region)
        image, inside = fill(part, self.runtime.input_size, self.letterbox)
        return View(frame, image, inside, seen, want_confidence, time.perf_counter() - start)

    def infer(self, views: Sequence[View]) -> list[Inference]:
        """What the network says of views that are inferred together. Raises EngineFailure."""
        start = time.perf_counter()
        want_confidence = self.threshold > 0 or any(view.want_confidence for view in views)
        try:
            predictions = self.runtime.infer_batch([view.image for view in views], want_confidence, self.wait)
        except Exception as error:  # each library has exceptions of its own
            raise EngineFailure(f"{type(error).__name__}: {one_line(error)}") from error
        seconds = time.perf_counter() - start
        return [Inference(prediction, seconds) for prediction in predictions]

    def place(self, view: View, inference: Inference) -> Segmentation:
        """The mask of a frame, of the size that was asked for, and its confidence if the view wants it."""
        start = time.perf_counter()
        mask, confidence = inference.prediction
        if self.threshold and confidence is not None:
            mask[confidence < 255 * self.threshold] = self.ignore_id
        size = self._size(view.frame)
        where = view.inside, view.seen, view.frame.size, size
        mask = place(mask, *where, self.ignore_id)
        confidence = place(confidence, *where, 0) if view.want_confidence and confidence is not None else None
        timings = {"resize": view.seconds, "infer": inference.seconds, "upsize": time.perf_counter() - start}
        return Segmentation(mask, confidence, mapping(*where), None if size else view.image, timings)

    def _size(self, frame: Frame) -> Size | None:
        """Of the mask of a frame; None for the network's view."""
        if isinstance(self.mask_size, str):
            return frame.size if self.mask_size == "frame" else None
        return self.mask_size
