"""What a run measured: pairs frames with their masks, counts, times, scores, and tells it as tables and JSON.

Knows nothing of ROS. Latencies are ms, rates Hz, IoU fractions of 1 in the JSON and % in the tables.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from transkd_ros.demo.sources import Shot
from transkd_ros.evaluate.scoring import Metrics
from transkd_ros.files import write_atomic
from transkd_ros.frames import decode
from transkd_ros.model.labels import LabelTable
from transkd_ros.reports.album import ContactSheet, Video
from transkd_ros.reports.machine import machine, versions
from transkd_ros.timing import Rate, Timings, read_latencies, read_others

_MOST_PENDING = 64  # frames without a mask that are kept; older ones are given up
VIDEO, _SHEET, _TIMING = "overlay.mp4", "contact_sheet.png", "timing.json"
_END_TO_END = "end to end"

Diagnostics = Mapping[str, Mapping[str, str]]
"""The values of the node's diagnostics by status: `node`, and each camera's name."""


class TruthError(ValueError):
    """The ground truth is not of the model's classes."""


class Run:
    """A run in progress; `finish` leaves `overlay.mp4`, `contact_sheet.png` and `timing.json` in `folder`.

    Those of an earlier run are removed at the start, so that they are never taken for this one's. `scored` are the
    classes that the ground truth may hold, (classes,) bool; all by default.
    """

    def __init__(
        self, folder: Path, labels: LabelTable, rate: float, scored: NDArray[np.bool_] | None = None
    ) -> None:
        for name in (VIDEO, _SHEET, _TIMING):
            (folder / name).unlink(missing_ok=True)
        self.sent, self.answered = Rate(), Rate()
        self.files: list[Path] = []
        self._folder = folder
        self._labels = labels
        self._pending: dict[int, Shot] = {}
        self._timings = Timings(window=None)
        self._metrics = Metrics(labels, scored)
        self._video = Video(folder / VIDEO, rate)
        self._sheet = ContactSheet(labels)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self._video.discard()

    @property
    def dropped(self) -> int:
        """Frames superseded by a newer one, or lost: sent, and no longer waited for."""
        return self.sent.count - self.answered.count - len(self._pending)

    @property
    def latency(self) -> dict[str, float]:
        """{"p50", "p95", "p99", "mean": ms, "count"} from publishing a frame to hearing its mask; {} before one."""
        return self._timings.snapshot().get(_END_TO_END, {})

    @property
    def miou(self) -> float:
        """In [0, 1]; nan without ground truth."""
        return self._metrics.miou()

    def send(self, stamp_ns: int, shot: Shot) -> None:
        """Note that a frame was published under this stamp."""
        self.sent.tick(stamp_ns / 1e9)
        self._pending[stamp_ns] = shot
        if len(self._pending) > _MOST_PENDING:
            del self._pending[next(iter(self._pending))]

    def is_waiting(self, stamp_ns: int) -> bool:
        """Whether the frame of this stamp may still get its mask."""
        return stamp_ns in self._pending

    def answer(self, stamp_ns: int, heard_ns: int, mask: NDArray[np.uint8]) -> None:
        """Take the mask (H, W) of the frame of that stamp. Raises TruthError; unknown stamps are ignored."""
        shot = self._pending.get(stamp_ns)
        if shot is None:
            return
        # Masks come in the order of their frames, so the frames before this one will get none.
        self._pending = {stamp: kept for stamp, kept in self._pending.items() if stamp > stamp_ns}
        self.answered.tick(heard_ns / 1e9)
        self._timings.add(_END_TO_END, (heard_ns - stamp_ns) / 1e9)
        if shot.truth is not None:
            try:
                self._metrics.confusion.update(mask, shot.truth)
            except ValueError as error:
                raise TruthError(f"the ground truth does not fit the model's classes: {error}") from error
        rgb = decode(shot.message).rgb()
        self._sheet.offer(rgb, mask, shot.truth)
        self._video.write(self._labels.overlay(rgb, mask, legend=True))

    def finish(self, title: str, details: Mapping[str, Any], diagnostics: Diagnostics) -> None:
        """Write the pictures and timing.json; `details` are put before the results in it. Raises OSError."""
        self._pending.clear()
        if self.answered.count:
            self._sheet.save(self._folder / _SHEET, title)
            self.files.append(self._folder / _SHEET)
            if video := self._video.finish():
                self.files.append(video)
        text = json.dumps({**details, **self.summary(diagnostics)}, indent=2, ensure_ascii=False)
        write_atomic(self._folder / _TIMING, text + "\n")
        self.files.append(self._folder / _TIMING)

    def summary(self, diagnostics: Diagnostics) -> dict[str, Any]:
        """The run as JSON-ready values; `quality` only where there was ground truth."""
        node = diagnostics.get("node", {})
        summary: dict[str, Any] = {
            "frames": {"sent": self.sent.count, "answered": self.answered.count, "dropped": self.dropped},
            "rate_hz": {"in": round(self.sent.mean, 2), "out": round(self.answered.mean, 2)},
            "end_to_end_ms": {key: round(value, 2) for key, value in self.latency.items()},
            "stages_ms": read_latencies(node),
            "node": read_others(node),
            "cameras": {what: values for what, values in diagnostics.items() if what != "node"},
            "machine": machine(),
            "versions": versions(),
        }
        if self._metrics.labelled:
            iou = zip(self._labels.names, self._metrics.iou().tolist(), strict=True)
            summary["quality"] = {
                "miou": round(self.miou, 4),
                "pixel_accuracy": round(self._metrics.confusion.pixel_accuracy(), 4),
                "iou": {name: None if math.isnan(value) else round(value, 4) for name, value in iou},
            }
        return summary

    def table(self, diagnostics: Diagnostics) -> Table:
        """The latency of every stage of the node, and end to end, in ms."""
        table = Table("latency (ms)")
        for heading in ("p50", "p95"):
            table.add_column(heading, justify="right")
        for stage, times in read_latencies(diagnostics.get("node", {})).items():
            table.add_row(stage, f"{times['p50']:.1f}", f"{times['p95']:.1f}", end_section=stage == "total")
        if self.latency:
            table.add_row(_END_TO_END, f"{self.latency['p50']:.1f}", f"{self.latency['p95']:.1f}", style="bold")
        return table

    def line(self) -> str:
        """Counts, rates and the latency end to end as one line."""
        text = f"{self.sent.count} sent, {self.answered.count} answered, {self.dropped} dropped"
        text += f", {self.sent.mean:.1f} Hz in, {self.answered.mean:.1f} Hz out"
        if self.latency:
            text += f", {_END_TO_END} p50 {self.latency['p50']:.1f} ms, p95 {self.latency['p95']:.1f} ms"
        return text

    def quality_table(self) -> Table | None:
        """IoU per class and how much there is of it, in %, or None without ground truth."""
        if not self._metrics.labelled:
            return None
        table = Table("class", caption="of a class that the frames hardly show, the IoU says little")
        for heading in ("IoU (%)", "of the labels (%)"):
            table.add_column(heading, justify="right")
        pixels = self._metrics.confusion.matrix.sum(axis=1)
        shares = (pixels / pixels.sum()).tolist()
        for name, value, share in zip(self._labels.names, self._metrics.iou().tolist(), shares, strict=True):
            table.add_row(name, "absent" if math.isnan(value) else f"{100 * value:.1f}", f"{100 * share:.2f}")
        table.add_section()
        table.add_row("mean", f"{100 * self.miou:.1f}", "", style="bold")
        return table
