"""The fastest of several ways to run a model on this machine, measured once and remembered.

What the ways are, and how one is loaded, is the business of `transkd_ros.model.engines`; where the result is kept, that
of `transkd_ros.model.cache`.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from transkd_ros.cli import one_line
from transkd_ros.files import write_atomic
from transkd_ros.model import memory
from transkd_ros.model.bundle import BundleError
from transkd_ros.model.cache import CacheUnavailable, machine_folder
from transkd_ros.model.engines.base import Candidate, Runtime, RuntimeUnavailable

LIMIT = 5.0  # seconds after which no further candidate is tried
LEAST, MOST = 5, 30  # inferences of a candidate
SHARE = 0.3  # seconds after which a candidate has had its LEAST inferences, and that is enough
HOPELESS = 2.0  # times the fastest, after which a candidate is not timed further


@dataclass(frozen=True)
class Timing:
    """The fastest of a candidate's inferences in ms; where there is none, `note` says why."""

    candidate: Candidate
    ms: float | None
    note: str = ""

    def __str__(self) -> str:
        return f"{self.candidate} {self.note if self.ms is None else f'{self.ms:.1f} ms'}"


@dataclass(frozen=True)
class Choice:
    """The fastest candidate, loaded; every candidate's timing; and where they are from, in words."""

    runtime: Runtime
    timings: tuple[Timing, ...]
    source: str

    def __str__(self) -> str:
        return f"the fastest here ({self.source}: {', '.join(map(str, self.timings))})"


Load = Callable[[Candidate], Runtime]


def fastest(
    candidates: Sequence[Candidate],
    load: Load,
    key: dict[str, Any],
    want_confidence: bool = False,
    afresh: bool = False,
) -> Choice:
    """The candidate that `key` is remembered to be fastest for, else the one that is when they are timed.

    `candidates` are tried in their order, the likely ones first, until LIMIT is over; `load` loads and warms up one, or
    raises RuntimeUnavailable. Those that did not run, or found no time, are tried again at the next start: a driver may
    have come since. `key`, JSON-ready, is all that the times depend on. `want_confidence`: in the times, too. `afresh`
    remembers what it measures, but nothing from before, and has no limit. A cache that is broken, foreign or out of
    reach is told of in the choice's source, and does no harm. Raises RuntimeUnavailable if none runs.
    """
    notes: list[str] = []
    path = _file_of(key, notes)
    limit = math.inf if afresh else LIMIT
    if path and not afresh and (remembered := _recall(path, key, candidates, notes)):
        known = [timing for timing in remembered if timing.ms is not None]
        open_ones = [timing.candidate for timing in remembered if timing.ms is None]
        try:
            runtime = load(known[0].candidate)
        except RuntimeUnavailable as error:  # for once, perhaps: what is remembered stays
            notes.append(f"remembered {known[0].candidate}, but {error}")
            path = None
        else:
            if not open_ones:
                return Choice(runtime, remembered, f"remembered in {path}")
            runtime, timings = measure(open_ones, load, limit, want_confidence, (runtime, known))
            _remember(path, key, timings, notes)
            return Choice(runtime, timings, "; ".join([f"remembered in {path}, the rest tried again", *notes]))
    runtime, timings = measure(candidates, load, limit, want_confidence)
    if path:
        _remember(path, key, timings, notes)
    return Choice(runtime, timings, "; ".join(["measured now", *notes]))


def measure(
    candidates: Sequence[Candidate],
    load: Load,
    limit: float,
    want_confidence: bool,
    before: tuple[Runtime | None, Sequence[Timing]] = (None, ()),
) -> tuple[Runtime, tuple[Timing, ...]]:
    """The fastest candidate, loaded, and all timings, fastest first. At most two are in memory at a time.

    `before`: the fastest of others, loaded, and the timings of those, fastest first.
    """
    start = time.monotonic()
    best, timings = before[0], list(before[1])
    best_ms = timings[0].ms or math.inf if timings else math.inf
    tried = False
    for candidate in candidates:
        if best and tried and time.monotonic() - start > limit:
            timings.append(Timing(candidate, None, "not tried for want of time"))
            continue
        tried, runtime = True, None
        try:
            runtime = load(candidate)
            ms = _time(runtime, want_confidence, HOPELESS * best_ms)
        except BundleError:
            raise
        except Exception as error:  # whatever its library throws: others may run
            timings.append(Timing(candidate, None, f"does not run: {one_line(error)}"))
            if runtime:
                runtime.close()
            continue
        timings.append(Timing(candidate, ms))
        if ms < best_ms:
            runtime, best, best_ms = best, runtime, ms  # type: ignore[assignment]
        if runtime:
            runtime.close()
            del runtime
            memory.give_back()
    if best is None:
        raise RuntimeUnavailable("; ".join(dict.fromkeys(timing.note for timing in timings)))
    return best, tuple(sorted(timings, key=lambda timing: math.inf if timing.ms is None else timing.ms))


def _time(runtime: Runtime, want_confidence: bool, hopeless: float) -> float:
    """The shortest of some inferences in ms: what disturbs one makes it longer, never shorter."""
    image = np.random.default_rng(0).integers(0, 256, (*runtime.input_size, 3), np.uint8)
    times: list[float] = []
    until = time.perf_counter() + SHARE
    while len(times) < MOST and (len(times) < LEAST or time.perf_counter() < until):
        start = time.perf_counter()
        runtime.infer(image, want_confidence)
        times.append(1e3 * (time.perf_counter() - start))
        if len(times) > 1 and min(times) > hopeless:
            break
    return min(times)


# ---- what is remembered --------------------------------------------------------------------------
def _file_of(key: dict[str, Any], notes: list[str]) -> Path | None:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    try:
        return machine_folder("tuning") / f"{digest[:16]}.json"
    except CacheUnavailable as error:
        notes.append(f"not remembered: {error}")
        return None


def _recall(
    path: Path, key: dict[str, Any], candidates: Sequence[Candidate], notes: list[str]
) -> tuple[Timing, ...] | None:
    """Timings of all candidates, the fastest first, which has one."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["key"] != key:
            raise ValueError("of another machine, model or version")
        timings = tuple(Timing(Candidate(*way), ms and float(ms), str(note)) for way, ms, note in stored["timings"])
        if timings[0].ms is None or {timing.candidate for timing in timings} != set(candidates):
            raise ValueError("it names no way to run the model here")
        return timings
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, LookupError) as error:
        notes.append(f"ignored {path}: {' '.join(str(error).split())}")
        return None


def _remember(path: Path, key: dict[str, Any], timings: Sequence[Timing], notes: list[str]) -> None:
    stored = {"key": key, "timings": [[timing.candidate, timing.ms, timing.note] for timing in timings]}
    try:
        write_atomic(path, json.dumps(stored, indent=1) + "\n")
    except OSError as error:  # a full disk
        notes.append(f"not remembered: {path} cannot be written: {error.strerror}")
