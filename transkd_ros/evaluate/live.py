"""What really came out of a running node while a bag was replayed, and the gap to the offline evaluation.

During the replay a `Recording` only notes stamps and times and packs the masks into a temporary file, so that the
instrument takes little of what it measures. `score` then holds the masks against the bag, where frames and labels
are complete, whatever was lost on the way. The topics are the business of `nodes/evaluation.py`.
"""

from __future__ import annotations

import json
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from transkd_ros.cli import CommandError
from transkd_ros.evaluate.pipeline import Shot
from transkd_ros.evaluate.result import Evaluation, ModelRun
from transkd_ros.evaluate.scoring import Score
from transkd_ros.reports.html import number, percent
from transkd_ros.timing import read_drops, read_latencies

Mask = NDArray[np.uint8]

UNANSWERED = "never answered"


class _Packed(NamedTuple):
    start: int  # in the file
    length: int
    shape: tuple[int, ...]


class Recording:
    """One camera during a replay: the frames that were heard, and their masks, in a temporary file of `folder`.

    Frames and masks are told apart by their header stamps; times are ns of the system's clock.
    """

    def __init__(self, folder: Path) -> None:
        self.sent: dict[int, int] = {}  # stamp of a frame -> when it was published
        self.answered: dict[int, int] = {}  # stamp of a mask -> when it was published
        self.repeated = 0  # frames with the stamp of an earlier one
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (it lasts as long as this object)
        self._packed: dict[int, _Packed] = {}

    def frame(self, stamp_ns: int, published_ns: int) -> None:
        """A frame was heard."""
        self.repeated += stamp_ns in self.sent
        self.sent[stamp_ns] = published_ns

    def answer(self, stamp_ns: int, published_ns: int, mask: Mask) -> None:
        """The mask (H, W) of a frame was heard. Raises OSError if the disk is full."""
        data = zlib.compress(np.ascontiguousarray(mask).data, 1)
        start = self._file.seek(0, 2)
        self._file.write(data)
        self._packed[stamp_ns] = _Packed(start, len(data), mask.shape)
        self.answered[stamp_ns] = published_ns

    def mask(self, stamp_ns: int) -> Mask | None:
        """The mask (H, W) of the frame of that stamp, or None."""
        packed = self._packed.get(stamp_ns)
        if packed is None:
            return None
        self._file.seek(packed.start)
        return np.frombuffer(zlib.decompress(self._file.read(packed.length)), np.uint8).reshape(packed.shape)

    @property
    def stamps(self) -> set[int]:
        """Of all frames that were certainly sent: of a mask whose frame was not heard here, too."""
        return self.sent.keys() | self.answered.keys()

    def latencies(self) -> dict[int, float]:
        """Seconds from the publication of a frame to that of its mask, by stamp; only of frames that were heard."""
        answered = ((stamp, self.sent.get(stamp), ns) for stamp, ns in self.answered.items())
        return {stamp: (ns - sent) / 1e9 for stamp, sent, ns in answered if sent is not None}

    def to_json(self, in_bag: int) -> dict[str, Any]:
        """Counts of frames, and rates in Hz."""
        sent, answered = len(self.stamps), len(self.answered)
        return {
            "in_bag": in_bag,
            "sent": sent,
            "answered": answered,
            "never_answered": sent - answered,
            "repeated_stamps": self.repeated,
            "rate_hz": {"in": _hz(self.sent), "out": _hz(self.answered)},
        }


def _hz(published: Mapping[int, int]) -> float | None:
    """Mean rate from the first to the last."""
    if len(published) < 2:
        return None
    times = published.values()
    seconds = (max(times) - min(times)) / 1e9
    return round((len(published) - 1) / seconds, 3) if seconds > 0 else None


def score(shots: Iterator[Shot], recording: Recording, score: Score) -> None:
    """Score the masks of a recording against the bag it was made of, leaving out the frames that were never sent."""
    sent = recording.stamps
    for shot in shots:
        if shot.stamp_ns not in sent:
            continue
        if shot.label_problem:
            score.problems[shot.label_problem] += 1
        mask = recording.mask(shot.stamp_ns)
        if mask is None:
            score.skip(UNANSWERED)
        else:
            score.add(shot.stamp_ns, mask, shot.truth, shot.frame)


# ------------------------------------------------------------------------------------------------ the result


@dataclass
class LiveEvaluation(Evaluation):
    """An evaluation whose one model ran live.

    `recordings` and `in_bag`, the number of frames, are by camera. `diagnostics` are the values of the node's last
    diagnostics by status: `node`, and each camera's name. `offline` are the (metrics, timings) of the same model in
    the metrics.json of an offline evaluation.
    """

    recordings: dict[str, Recording] = field(default_factory=dict)
    in_bag: dict[str, int] = field(default_factory=dict)
    diagnostics: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    offline: tuple[dict[str, Any], dict[str, Any]] | None = None

    def to_json(self) -> dict[str, Any]:
        return {**super().to_json(), "live": self.live()}

    def live(self) -> dict[str, Any]:
        """What only a live run has: frames and drops by camera, the node's own account, and the gap."""
        node = self.diagnostics.get("node", {})
        return {
            "cameras": {name: recording.to_json(self.in_bag[name]) for name, recording in self.recordings.items()},
            "dropped_by_the_node": {
                name: dropped(values) for name, values in self.diagnostics.items() if name != "node"
            },
            "node_stages_ms": read_latencies(node),
            "gap": self.gap(),
        }

    def line(self) -> str:
        """The result in one line."""
        sent, answered = (sum(len(r.stamps) for r in self.recordings.values()), self.models[0].frames)
        live, quality = figures(self.models[0].to_json(), self.models[0].timings()), ""
        if live["miou"] is not None:
            quality = f", mIoU {percent(live['miou'])} %"
        times = ", ".join(f"{name} {number(live[f'latency_{name}_ms'])} ms" for name in ("p50", "p95"))
        return f"{answered} of {sent} frames answered{quality}, frame to mask {times}"

    def gap(self) -> dict[str, dict[str, float | None]]:
        """{what: {"live", "offline"}}: the scores of all cameras together, latencies (ms) and rates (Hz)."""
        metrics, timings = self.offline or ({}, {})
        live = figures(self.models[0].to_json(), self.models[0].timings())
        offline = figures(metrics, timings)
        live["answered"] = _share(self.recordings)
        offline["answered"] = round(_scored(metrics) / sum(frames_of(metrics).values()), 6) if metrics else None
        return {what: {"live": live[what], "offline": offline[what]} for what in live}


def figures(metrics: Mapping[str, Any], timings: Mapping[str, Any]) -> dict[str, float | None]:
    """What the gap compares, of one model's parts of metrics.json; None for what is not there."""
    total = metrics.get("total", {})
    latency = timings.get("latency_ms", {}).get("total", {})
    return {
        "miou": total.get("miou"),
        "pixel_accuracy": total.get("pixel_accuracy"),
        "boundary_f1": total.get("boundary_f1"),
        "flicker": total.get("flicker", {}).get("share"),
        "frames_per_second": timings.get("frames_per_second"),
        **{f"latency_{name}_ms": latency.get(name) for name in ("p50", "p95", "p99")},
    }


def read_offline(path: Path, model: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parts of a metrics.json about `model`. Raises CommandError that names the models it is about; OSError."""
    try:
        found = json.loads(path.read_text("utf-8"))
        models, timings = found["models"], found["timings"]["models"]
    except (ValueError, KeyError, TypeError) as error:
        raise CommandError(f"{path}: not the metrics.json of an offline evaluation") from error
    if model not in models:
        raise CommandError(f"{path}: has no model {model}, but {', '.join(models)}")
    return models[model], timings[model]


def frames_of(metrics: Mapping[str, Any]) -> dict[str, int]:
    """How many frames an offline run saw, by camera."""
    counts = ((name, camera["frames"]) for name, camera in metrics["cameras"].items())
    return {name: frames["scored"] + sum(frames["skipped"].values()) for name, frames in counts}


def _scored(metrics: Mapping[str, Any]) -> int:
    return sum(camera["frames"]["scored"] for camera in metrics["cameras"].values())


def dropped(values: Mapping[str, str]) -> dict[str, int]:
    """Frames that the node says it dropped, by cause, of one camera's diagnostics; only the causes that occurred."""
    return {cause: count for cause, count in read_drops(values).items() if count}


def take_latencies(run: ModelRun, recordings: Mapping[str, Recording]) -> None:
    """Give a live run its latencies and its duration: of all cameras, from the first frame to the last mask."""
    for recording in recordings.values():
        for seconds in recording.latencies().values():
            run.latencies.add("total", seconds)
    sent = [time for recording in recordings.values() for time in recording.sent.values()]
    answered = [time for recording in recordings.values() for time in recording.answered.values()]
    if sent and answered:
        run.seconds = (max(answered) - min(sent)) / 1e9


def _share(recordings: Mapping[str, Recording]) -> float | None:
    """Answered frames of all that were sent."""
    sent = sum(len(recording.stamps) for recording in recordings.values())
    return round(sum(len(recording.answered) for recording in recordings.values()) / sent, 6) if sent else None
