"""The frames of a camera through a model: reading, inference and scoring side by side, with bounded queues between.

One thread reads and decodes ahead, the caller's runs the engine, one scores behind. Every frame is taken exactly once
and in order, so that what is scored does not depend on how the threads take turns.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from transkd_ros.bags.frame_files import FrameFiles
from transkd_ros.bags.messages import header_stamp
from transkd_ros.bags.storage import BagReader
from transkd_ros.evaluate.scoring import Score
from transkd_ros.evaluate.truth import LabelError, Truth
from transkd_ros.frames import Frame, FrameError, SampleBits, decode
from transkd_ros.segmenter import Segmenter
from transkd_ros.sizes import Size
from transkd_ros.timing import Timings

DEPTH = 4  # frames that wait between two threads
STAGES = ("decode", "resize", "infer", "upsize", "total")  # of `latencies`

Mask = NDArray[np.uint8]
Item = TypeVar("Item")


class Shot(NamedTuple):
    """A frame as it comes from the bag; `frame` is None where it could not be decoded, for the reason `cause`."""

    recorded_ns: int
    stamp_ns: int
    frame_id: str
    frame: Frame | None
    cause: str
    truth: Mask | None
    label_problem: str
    decode_seconds: float


class MaskSink(Protocol):
    """What else happens to a mask, in the scoring thread."""

    def __call__(self, shot: Shot, mask: Mask) -> None: ...


def shots(
    bag: BagReader | FrameFiles, topic: str, truth: Truth | None = None, size: Size | None = None
) -> Iterator[Shot]:
    """Every frame of a topic, decoded, with its label. Raises BagError on reaching a damaged part.

    `size` (H, W) is what the network sees: a large JPEG is decoded no larger than it takes, as the node does it.
    """
    bits = SampleBits()
    for index, (recorded_ns, message) in enumerate(bag.frames(topic)):
        start = time.perf_counter()
        stamp_ns = header_stamp(message)
        frame, cause = _decoded(message, size, bits)
        seconds = time.perf_counter() - start
        label, problem = _label(truth, index, stamp_ns)
        yield Shot(recorded_ns, stamp_ns, message.header.frame_id, frame, cause, label, problem, seconds)


def _decoded(message: Any, size: Size | None, bits: SampleBits) -> tuple[Frame | None, str]:
    try:
        return decode(message, size, bits), ""
    except FrameError as error:
        return None, error.cause


def _label(truth: Truth | None, index: int, stamp_ns: int) -> tuple[Mask | None, str]:
    try:
        return (truth.mask(index, stamp_ns) if truth else None), ""
    except LabelError as error:
        return None, str(error)


def evaluate(
    frames: Iterator[Shot],
    segmenter: Segmenter,
    score: Score,
    latencies: Timings,
    teacher: Segmenter | None = None,
    sink: MaskSink | None = None,
    show: Callable[[], None] = lambda: None,
) -> None:
    """Take every frame through `segmenter` into `score`; the masks of `teacher` are the ground truth if it is given.

    `latencies` get the seconds of every one of STAGES. `sink` gets every mask, `show` is called for every frame.
    However it ends, all masks that were made are scored.
    """
    with ThreadPoolExecutor(1, "scoring") as scoring, closing(_ahead(frames)) as coming:
        waiting: deque[Future[None]] = deque()
        try:
            for shot in coming:
                if len(waiting) == DEPTH:
                    waiting.popleft().result()
                mask, label = _masks(shot, segmenter, latencies, teacher)
                waiting.append(scoring.submit(_account, shot, mask, label, score, sink))
                show()
        finally:
            for future in waiting:
                future.result()


def _ahead(items: Iterator[Item]) -> Generator[Item, None, None]:
    """The same items and exceptions, made by another thread before they are asked for."""
    end = object()
    with ThreadPoolExecutor(1, "reading") as reading:
        coming: deque[Future[Any]] = deque(reading.submit(next, items, end) for _ in range(DEPTH))
        while (item := coming.popleft().result()) is not end:
            coming.append(reading.submit(next, items, end))
            yield item


def _masks(
    shot: Shot, segmenter: Segmenter, latencies: Timings, teacher: Segmenter | None
) -> tuple[Mask | None, Mask | None]:
    """(mask, truth); no mask of a frame that could not be decoded."""
    if shot.frame is None:
        return None, None
    segmentation = segmenter(shot.frame)
    stages = {"decode": shot.decode_seconds, **segmentation.timings}
    for stage, seconds in (stages | {"total": sum(stages.values())}).items():
        latencies.add(stage, seconds)
    return segmentation.mask, teacher(shot.frame).mask if teacher else shot.truth


def _account(shot: Shot, mask: Mask | None, truth: Mask | None, score: Score, sink: MaskSink | None) -> None:
    if shot.label_problem:
        score.problems[shot.label_problem] += 1
    if mask is None:
        score.skip(shot.cause)
        return
    score.add(shot.stamp_ns, mask, truth, shot.frame)
    if sink:
        sink(shot, mask)
