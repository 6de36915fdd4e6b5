"""The masks of teacher and student brought together frame by frame, in bounded memory."""

from __future__ import annotations

from itertools import takewhile
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TEACHER, STUDENT = SIDES = ("teacher", "student")

Mask = NDArray[np.uint8]


class Pair(NamedTuple):
    """The masks of one frame, (H, W) uint8 class ids each, and the stamp that all three bear (ns)."""

    stamp_ns: int
    teacher: Mask
    student: Mask


class Pairing:
    """Pairs the masks of one camera by header stamp.

    A mask waits until the other side's comes, `most_waiting` per side at most; `unpaired` counts those given up.
    """

    def __init__(self, most_waiting: int = 32) -> None:
        self.complete = 0
        self.unpaired = dict.fromkeys(SIDES, 0)
        self._most_waiting = most_waiting
        self._waiting: dict[str, dict[int, Mask]] = {side: {} for side in SIDES}  # in the order they came

    @property
    def waiting(self) -> int:
        """Masks whose partner may still come."""
        return sum(map(len, self._waiting.values()))

    def add(self, side: str, stamp_ns: int, mask: Mask) -> Pair | None:
        """Take a mask of TEACHER or STUDENT; the pair that it completes, if it does."""
        partners = self._waiting[STUDENT if side == TEACHER else TEACHER]
        if stamp_ns in partners:
            self._give_up_before(stamp_ns, side)
            partner = partners.pop(stamp_ns)
            self.complete += 1
            return Pair(stamp_ns, mask, partner) if side == TEACHER else Pair(stamp_ns, partner, mask)

        waiting = self._waiting[side]
        if stamp_ns in waiting:  # the frame was played again before the other side answered it
            self._give_up(side, stamp_ns)
        elif len(waiting) == self._most_waiting:
            self._give_up(side, next(iter(waiting)))
        waiting[stamp_ns] = mask
        return None

    def _give_up_before(self, stamp_ns: int, side: str) -> None:
        """Each side answers the frames in their order: what came before the two masks of this frame stays alone.

        "Before" is told by arrival, not by stamp, because stamps jump back when a bag starts again.
        """
        other = STUDENT if side == TEACHER else TEACHER
        earlier = list(takewhile(lambda stamp: stamp != stamp_ns, self._waiting[other]))
        for who, stamps in ((side, list(self._waiting[side])), (other, earlier)):
            for stamp in stamps:
                self._give_up(who, stamp)

    def _give_up(self, side: str, stamp_ns: int) -> None:
        del self._waiting[side][stamp_ns]
        self.unpaired[side] += 1
