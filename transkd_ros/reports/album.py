"""Pictures of a run: the overlay video, written as it goes, and a contact sheet of a few frames.

Memory stays bounded however long the run: the video goes to disk frame by frame, the sheet keeps a handful.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from transkd_ros.files import write_atomic
from transkd_ros.model.labels import LabelTable

Pixels = NDArray[np.uint8]

_CELL_WIDTH = 400
_LINE = 28  # height of a line of text
_GAP = 6
_INK, _PAPER = (40, 40, 40), 250


class Video:
    """An MP4 of RGB frames that appears under its name only when it is complete and can be read back."""

    def __init__(self, path: Path, rate: float) -> None:
        self.path = path
        self._rate = rate
        self._partial = path.with_name(f".{path.stem}.partial{path.suffix}")
        self._writer: cv2.VideoWriter | None = None
        self._size = (0, 0)  # (width, height)

    def write(self, rgb: Pixels) -> None:
        """Append (H, W, 3) uint8; the first frame decides the size, others are fitted to it."""
        if self._writer is None:
            # The codec takes even sides only.
            self._size = (max(2, rgb.shape[1] // 2 * 2), max(2, rgb.shape[0] // 2 * 2))
            codec = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self._partial), codec, self._rate, self._size)
        if (rgb.shape[1], rgb.shape[0]) != self._size:
            rgb = _shrink(rgb, *self._size)
        self._writer.write(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))

    def discard(self) -> None:
        """Give up the file if it is not finished."""
        if self._writer is not None:
            self._writer.release()
            self._writer = None
            self._partial.unlink(missing_ok=True)

    def finish(self) -> Path | None:
        """Close the file; its path, or None, and no file, where this OpenCV build cannot write it."""
        if self._writer is None:
            return None
        self._writer.release()
        self._writer = None
        reader = cv2.VideoCapture(str(self._partial))
        readable = reader.isOpened() and reader.read()[0]
        reader.release()
        if not readable:
            self._partial.unlink(missing_ok=True)
            return None
        os.replace(self._partial, self.path)
        return self.path


class _Sample(NamedTuple):
    rgb: Pixels
    overlay: Pixels
    truth: Pixels | None  # drawn over the frame


class ContactSheet:
    """Rows of `frame | mask | ground truth`, spread evenly over a run of unknown length, above a legend."""

    def __init__(self, labels: LabelTable, rows: int = 4) -> None:
        self._labels = labels
        self._rows = rows
        self._kept: list[_Sample] = []
        self._seen = 0
        self._stride = 1

    def offer(self, rgb: Pixels, mask: Pixels, truth: Pixels | None) -> None:
        """Show it a frame (H, W, 3) uint8 RGB with its masks (H, W); it keeps every n-th, n growing."""
        if self._seen % self._stride == 0:
            self._kept.append(self._sample(rgb, mask, truth))
            if len(self._kept) == 4 * self._rows:
                self._kept = self._kept[::2]
                self._stride *= 2
        self._seen += 1

    def save(self, path: Path, title: str) -> None:
        """Write the sheet as PNG. Raises OSError."""
        write_atomic(path, cv2.imencode(".png", cv2.cvtColor(self.draw(title), cv2.COLOR_RGB2BGR))[1].tobytes())

    def draw(self, title: str) -> Pixels:
        """The sheet, (H, W, 3) uint8 RGB."""
        samples = [self._kept[i] for i in _spread(len(self._kept), self._rows)]
        columns = ["frame", "mask"] + ["ground truth"] * any(sample.truth is not None for sample in samples)
        width = len(columns) * (_CELL_WIDTH + _GAP) + _GAP
        parts = [_line([(_GAP, title)], width)]
        parts.append(_line([(_GAP + i * (_CELL_WIDTH + _GAP), name) for i, name in enumerate(columns)], width))
        parts += [_row(sample, width) for sample in samples]
        return np.concatenate([*parts, legend(self._labels, width)])

    def _sample(self, rgb: Pixels, mask: Pixels, truth: Pixels | None) -> _Sample:
        height = max(1, round(rgb.shape[0] * _CELL_WIDTH / rgb.shape[1]))
        small = _shrink(rgb, _CELL_WIDTH, height)
        drawn = None if truth is None else self._labels.overlay(small, truth, alpha=0.6)
        return _Sample(small, self._labels.overlay(small, mask, alpha=0.6), drawn)


def _shrink(rgb: Pixels, width: int, height: int) -> Pixels:
    return cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def _spread(count: int, wanted: int) -> list[int]:
    """At most `wanted` of the indices 0..count-1, evenly spread with both ends."""
    return sorted(set(np.linspace(0, count - 1, min(count, wanted)).round().astype(int).tolist()))


def _paper(height: int, width: int) -> Pixels:
    return np.full((height, width, 3), _PAPER, np.uint8)


def _line(texts: list[tuple[int, str]], width: int) -> Pixels:
    """A line with texts at the given x."""
    line = _paper(_LINE, width)
    for x, text in texts:
        cv2.putText(line, text, (x, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.55, _INK, 1, cv2.LINE_AA)
    return line


def _row(sample: _Sample, width: int) -> Pixels:
    row = _paper(sample.rgb.shape[0] + _GAP, width)
    for i, cell in enumerate(sample):
        if cell is not None:
            x = _GAP + i * (_CELL_WIDTH + _GAP)
            row[: cell.shape[0], x : x + _CELL_WIDTH] = cell
    return row


def legend(labels: LabelTable, width: int) -> Pixels:
    """A swatch and a name per class, in as many lines as they need: (h, width, 3) uint8 RGB."""
    column = 160
    per_line = max(1, (width - _GAP) // column)
    drawn = _paper(-(-len(labels.names) // per_line) * _LINE, width)
    for i, (name, colour) in enumerate(zip(labels.names, labels.colors, strict=True)):
        x, y = _GAP + i % per_line * column, i // per_line * _LINE
        cv2.rectangle(drawn, (x, y + 6), (x + 22, y + 22), colour, cv2.FILLED)
        cv2.putText(drawn, name, (x + 30, y + 19), cv2.FONT_HERSHEY_SIMPLEX, 0.5, _INK, 1, cv2.LINE_AA)
    return drawn
