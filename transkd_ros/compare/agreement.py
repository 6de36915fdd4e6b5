"""Teacher against student on one camera: how far their masks agree, and how fast each of them is. Knows no ROS."""

from __future__ import annotations

import math
from collections import deque
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from transkd_ros.compare.pairing import SIDES, STUDENT, TEACHER, Mask, Pair, Pairing
from transkd_ros.evaluate.metrics import ConfusionMatrix
from transkd_ros.frames import resize_mask
from transkd_ros.model.bundle import Manifest
from transkd_ros.model.class_map import ClassMap, ClassTableError
from transkd_ros.model.labels import LabelTable
from transkd_ros.timing import Rate, Timings

WINDOW = 300  # pairs
LONGEST_LATENCY = 60.0  # seconds; anything else is a stamp of another clock
PROBLEMS = ("bad mask", "no stamp", "bad stamp", "stamp jumped back", "stamp of another clock", "unknown ids")

Counts = NDArray[np.int64]


def common_labels(teacher: Manifest, student: Manifest) -> LabelTable:
    """The class table of the comparison: the teacher's. The student's may have the same classes in another order.

    Raises ClassTableError if one knows a class that the other does not.
    """
    mapping = ClassMap(student.labels, teacher.labels)
    sides = ((teacher.name, mapping.missing), (student.name, mapping.unknown))
    if only := [f"only {name} has {', '.join(classes)}" for name, classes in sides if classes]:
        raise ClassTableError(f"teacher and student must know the same classes: {'; '.join(only)}")
    return teacher.labels


class Side:
    """The account of one model's masks: how many, how often, how late, and what was wrong with them."""

    def __init__(self) -> None:
        self.problems = dict.fromkeys(PROBLEMS, 0)
        self._rate = Rate()
        self._latencies = Timings()
        self._last_stamp = 0

    @property
    def received(self) -> int:
        return self._rate.count

    def hear(self, stamp_ns: int | None, now: float, latency: float | None) -> None:
        """Note a mask of this stamp (None: it is no time); times in seconds, `latency` None where it is not known."""
        self._rate.tick(now)
        if not stamp_ns:
            self.problems["bad stamp" if stamp_ns is None else "no stamp"] += 1
            return
        self.problems["stamp jumped back"] += stamp_ns < self._last_stamp
        self._last_stamp = stamp_ns
        if latency is None:
            return
        if 0 <= latency <= LONGEST_LATENCY:
            self._latencies.add("latency", latency)
        else:
            self.problems["stamp of another clock"] += 1

    def summary(self, now: float | None) -> dict[str, Any]:
        """JSON-ready. `rate_hz` is that of the seconds before `now`, `mean_rate_hz` that since the first mask."""
        latency = self._latencies.snapshot().get("latency", {})
        return {
            "masks": self.received,
            "rate_hz": round(self._rate.hz(self._rate.last if now is None else now), 2),
            "mean_rate_hz": round(self._rate.mean, 2),
            "latency_ms": {key: round(value, 2) for key, value in latency.items()},
            "problems": dict(self.problems),
        }


class Agreement:
    """The confusion of the student (columns) with the teacher (rows), over the last `window` pairs and over all."""

    def __init__(self, num_classes: int, window: int) -> None:
        self.window, self.total = ConfusionMatrix(num_classes), ConfusionMatrix(num_classes)
        self._recent: deque[tuple[NDArray[np.intp], Counts]] = deque()  # the cells that are not 0: memory stays small
        self._length = window
        self._pairs = 0

    def add(self, counts: Counts) -> None:
        """Add the (num_classes, num_classes) pixel counts of a pair."""
        if len(self._recent) == self._length:
            cells, values = self._recent.popleft()
            self.window.matrix.reshape(-1)[cells] -= values
        cells = np.flatnonzero(counts)
        self._recent.append((cells, counts.reshape(-1)[cells]))
        self.window.matrix += counts
        self.total.matrix += counts
        self._pairs += 1

    def summary(self, names: tuple[str, ...]) -> dict[str, Any]:
        """JSON-ready: {"window", "total"}: pairs; pixel accuracy, mIoU and IoU by class, fractions of 1 or None."""
        return {
            "window": {"pairs": len(self._recent), **_scores(self.window, names)},
            "total": {"pairs": self._pairs, **_scores(self.total, names)},
        }


class Moment(NamedTuple):
    """One point of the course of a comparison: the agreement of one pair, fractions of 1."""

    pair: int
    pixel_accuracy: float
    miou: float


class Course:
    """The agreement over time in at most `most` points, evenly spread: every n-th pair, n growing."""

    def __init__(self, most: int = 400) -> None:
        self.moments: list[Moment] = []
        self._most = most
        self._stride = 1

    def add(self, moment: Moment) -> None:
        if (moment.pair - 1) % self._stride:
            return
        self.moments.append(moment)
        if len(self.moments) == self._most:
            self.moments = self.moments[::2]
            self._stride *= 2


class Comparison:
    """Both models on one camera. Times are seconds of any clock, and may jump back; use it from one thread.

    `student` is the student's class table where it has the classes of `labels` in another order.
    """

    def __init__(
        self, labels: LabelTable, window: int = WINDOW, most_waiting: int = 32, student: LabelTable | None = None
    ) -> None:
        self.labels = labels
        self._reorder = _reordering(student, labels) if student else None
        self.sides = {side: Side() for side in SIDES}
        self.pairing = Pairing(most_waiting)
        self.agreement = Agreement(len(labels.names), window)
        self.course = Course()
        self.resized = 0  # pairs whose masks were of different size
        self.worst: Pair | None = None  # of all pairs, the one that agrees least
        self._least = math.inf

    def hear(
        self, side: str, stamp_ns: int | None, mask: Mask, now: float, latency: float | None = None
    ) -> Pair | None:
        """Take the (H, W) uint8 mask of TEACHER or STUDENT; the pair that it completes, if it does.

        The masks of a pair have one size: the student's is stretched to the teacher's. A mask without a stamp (0)
        or with one that is no time (None) belongs to no frame and only counts.
        """
        self.sides[side].hear(stamp_ns, now, latency)
        if side == STUDENT and self._reorder is not None:
            mask = cv2.LUT(mask, self._reorder).astype(np.uint8, copy=False)
        pair = self.pairing.add(side, stamp_ns, mask) if stamp_ns else None
        if pair is None:
            return None
        if pair.student.shape != pair.teacher.shape:
            self.resized += 1
            pair = pair._replace(student=resize_mask(pair.student, pair.teacher.shape))
        self._compare(pair)
        return pair

    def summary(self, now: float | None = None) -> dict[str, Any]:
        """The account so far, JSON-ready; `now` as in `hear`, each side's last mask where it is left out."""
        sides = {name: side.summary(now) for name, side in self.sides.items()}
        teacher, student = sides[TEACHER], sides[STUDENT]
        return {
            "pairs": {
                "complete": self.pairing.complete,
                "waiting": self.pairing.waiting,
                "teacher only": self.pairing.unpaired[TEACHER],
                "student only": self.pairing.unpaired[STUDENT],
                "resized": self.resized,
            },
            "agreement": self.agreement.summary(self.labels.names),
            **sides,
            "ratios": {  # both say how much better the student is
                "latency": _ratio(teacher["latency_ms"].get("p50"), student["latency_ms"].get("p50")),
                "rate": _ratio(student["mean_rate_hz"], teacher["mean_rate_hz"]),
            },
        }

    def _compare(self, pair: Pair) -> None:
        number = len(self.labels.names)
        counts = pair_counts(pair)
        for axis, side in ((1, TEACHER), (0, STUDENT)):
            unknown = counts.sum(axis)[number:]
            unknown[self.labels.ignore_id - number] = 0
            self.sides[side].problems["unknown ids"] += bool(unknown.any())
        of_pair = ConfusionMatrix(number)
        of_pair.matrix = counts[:number, :number]
        self.agreement.add(of_pair.matrix)
        if not of_pair.matrix.any():  # no pixel has a class on both sides
            return
        accuracy = of_pair.pixel_accuracy()
        self.course.add(Moment(self.pairing.complete, accuracy, of_pair.miou()))
        if accuracy < self._least:
            self._least, self.worst = accuracy, pair


def _reordering(student: LabelTable, labels: LabelTable) -> NDArray[np.uint8] | None:
    """(256,) the student's ids as those of `labels`, ids of no class as they are; None where nothing changes."""
    if (student.names, student.ignore_id) == (labels.names, labels.ignore_id):
        return None
    mapping = ClassMap(student, labels)
    return np.where(mapping.undefined, np.arange(256), mapping.ids).astype(np.uint8)


def pair_counts(pair: Pair) -> Counts:
    """(256, 256) pixels by id of the teacher (row) and of the student (column)."""
    both = (pair.teacher.astype(np.uint16) << 8) | pair.student
    return np.bincount(both.reshape(-1), minlength=1 << 16).reshape(256, 256)


def _scores(confusion: ConfusionMatrix, names: tuple[str, ...]) -> dict[str, Any]:
    iou = zip(names, confusion.iou().tolist(), strict=True)
    return {
        "pixel_accuracy": _rounded(confusion.pixel_accuracy()),
        "miou": _rounded(confusion.miou()),
        "iou": {name: _rounded(value) for name, value in iou},
    }


def _rounded(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 4)


def _ratio(one: float | None, other: float | None) -> float | None:
    return round(one / other, 3) if one and other else None
