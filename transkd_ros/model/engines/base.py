"""What every engine shares: the Runtime with its compiled graphs, and how devices and precisions are chosen.

An engine is a module of this package with three functions: `devices()` lists what it can use on this machine, its
best device first, `precisions(device)` what one computes in, the likely fastest first, and `load(bundle, options)`
makes a Runtime. `open_runtime` in the package's `__init__` picks among them.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from transkd_ros.cli import one_line
from transkd_ros.model.bundle import Bundle


class RuntimeUnavailable(RuntimeError):  # noqa: N818
    """This machine cannot run the bundle as asked; the text is one line that says what is missing."""


class Prediction(NamedTuple):
    """`mask` (H, W) uint8 class ids; `confidence` (H, W) uint8, 255 = certain, or None. The caller's own."""

    mask: np.ndarray
    confidence: np.ndarray | None


class Kind(NamedTuple):
    """What a compiled graph takes and gives: so many images at once, and with the masks the confidence or not."""

    images: int
    confidence: bool

    def __str__(self) -> str:
        images = "one image" if self.images == 1 else f"{self.images} images at once"
        return f"{images} {'with' if self.confidence else 'without'} confidence"


COMPILE_LIMIT = 10.0
"""Seconds that `close` waits for a graph."""
Graph = Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]]
"""Compiled for a Kind: images (H, W, 3) to new arrays, the masks and maybe the confidences, (images, H, W) uint8."""


class Runtime(ABC):
    """A network that turns images of one size into masks: a graph of each Kind, compiled when it is first wanted.

    From any thread, but one inference at a time. To be subclassed: `compile_graph` makes the graphs.
    """

    engine: str
    reason = ""  # which engine was chosen and why, for the log
    fallen_back = ""  # which nodes the device does not run, and who does
    takes_batches = False  # whether the network takes several images at once; known when a graph has been compiled

    def __init__(self, bundle: Bundle, options: LoadOptions) -> None:
        self.device, self.precision, self.input_size = options.device, options.precision, options.input_size
        self.tell: Callable[[str], None] = lambda text: None  # hears about graphs that are compiled aside
        self._has_confidence = "confidence" in bundle.manifest.outputs
        self._graphs: dict[Kind, Graph] = {}
        self._aside: dict[Kind, threading.Thread] = {}  # compiled in a thread, or tried in vain
        self._closed = False

    @abstractmethod
    def compile_graph(self, kind: Kind) -> Graph:
        """Load and compile the network, while other graphs may be at work. Raises what the engine's library does."""

    def infer(self, image: np.ndarray, want_confidence: bool = False) -> Prediction:
        """Segment `image`, (H, W, 3) uint8 RGB, contiguous, of `input_size`; ValueError for any other.

        No confidence if it is not wanted, or the network tells none.
        """
        return self.infer_batch([image], want_confidence)[0]

    def infer_batch(
        self, images: Sequence[np.ndarray], want_confidence: bool = False, wait: bool = True
    ) -> list[Prediction]:
        """Segment images as `infer` does, at once where the network takes batches.

        The first call for a number of images, and the first that wants confidence, has to compile a graph. It waits for
        that; or, with `wait` false, it uses what there is (one image after the other, without confidence), while the
        graph is compiled in a thread.
        """
        if self._closed:
            raise RuntimeError(f"{self.engine} is closed")
        for image in images:
            check_image(image, self.input_size)
        kind = Kind(len(images) if self.takes_batches else 1, want_confidence and self._has_confidence)
        if kind not in self._graphs:
            if wait or not self._graphs:
                self._graphs[kind] = self.compile_graph(kind)
            else:
                self._compile_aside(kind)
                kind = self._nearest(kind)
        predictions: list[Prediction] = []
        for first in range(0, len(images), kind.images):
            masks, *rest = self._graphs[kind](images[first : first + kind.images])
            confidences = list(rest[0]) if rest and want_confidence else [None] * kind.images
            predictions += map(Prediction, masks, confidences)
        return predictions

    def _nearest(self, kind: Kind) -> Kind:
        """Of the graphs that there are: one with confidence if that is wanted, and then for as many images."""
        there = [other for other in list(self._graphs) if other.images in (1, kind.images)]
        return min(there, key=lambda other: (other.confidence != kind.confidence, other.images != kind.images))

    def _compile_aside(self, kind: Kind) -> None:
        """Once: where it fails, frames do without."""
        if kind not in self._aside:
            self._aside[kind] = threading.Thread(target=self._add, args=(kind,), name="compiling", daemon=True)
            self._aside[kind].start()

    def _add(self, kind: Kind) -> None:
        start = time.monotonic()
        try:
            graph = self.compile_graph(kind)
            graph([np.zeros((*self.input_size, 3), np.uint8)] * kind.images)  # the first inference allocates
        except Exception as error:  # each library has exceptions of its own
            self.tell(f"the network cannot be compiled for {kind}, so frames do without: {one_line(error)[:300]}")
            return
        if not self._closed:
            self._graphs[kind] = graph
            self.tell(f"the network was compiled for {kind} in {time.monotonic() - start:.1f} s")

    def close(self) -> None:
        """Release the engine's memory. `infer` must not be called afterwards.

        Waits for a graph that is being compiled, COMPILE_LIMIT at most: the library crashes a process that ends then.
        """
        self._closed = True
        for thread in self._aside.values():
            thread.join(COMPILE_LIMIT)
        self._graphs.clear()


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


def stacked(images: Sequence[np.ndarray]) -> np.ndarray:
    """(images, H, W, 3), without a copy if there is one image."""
    return images[0][np.newaxis] if len(images) == 1 else np.stack(images)


def check_image(image: np.ndarray, input_size: tuple[int, int]) -> None:
    """Raise ValueError unless `image` is (H, W, 3) uint8, C-contiguous and of `input_size` (H, W)."""
    if image.shape != (*input_size, 3) or image.dtype != np.uint8 or not image.flags.c_contiguous:
        raise ValueError(
            f"infer() takes a contiguous uint8 image of shape {(*input_size, 3)}, "
            f"not {image.dtype} {image.shape}"
        )
