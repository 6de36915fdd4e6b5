"""Evaluations of parts added up to one of the whole: `metrics.json` of several robots, machines or days.

Scores are computed from the summed counts of pixels, so they are exactly those of one run over all bags; percentiles of
latencies come from the summed histograms (see `timing.histogram`). What a page shows of single frames is not in the
files.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from transkd_ros.evaluate.bag_cameras import bag_names
from transkd_ros.evaluate.scoring import Metrics
from transkd_ros.model.labels import LabelTable
from transkd_ros.timing import percentiles_of

_SAME = ("classes", "ignore_id")
_OF_MODEL = ("bundle", "engine", "input_size")


class MergeError(ValueError):
    """Files that cannot be added up; the text names them."""


def read(path: Path) -> dict[str, Any]:
    """A metrics.json with what `merge` needs, and its path as `file`. Raises MergeError, OSError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        for model in content["models"].values():
            for camera in model["cameras"].values():
                _ = camera["counts"], camera["bag"], camera["start_ns"], camera["camera"]
        return content | {"file": str(path)}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MergeError(f"{path} is not a metrics.json of `python -m transkd_ros.evaluate`, as it is now") from error


def merge(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One metrics.json of several. Raises MergeError for other classes or models, or a camera that counts twice."""
    first = parts[0]
    for part in parts[1:]:
        if differs := [key for key in _SAME if part[key] != first[key]]:
            raise MergeError(f"{part['file']} has other {differs[0]} than {first['file']}")
        if set(part["models"]) != set(first["models"]):
            theirs, ours = (", ".join(whose["models"]) for whose in (part, first))
            raise MergeError(f"{part['file']} is of the models {theirs}, not {ours}")
    keys = _keys(parts)
    table = LabelTable(tuple(first["classes"]), ((0, 0, 0),) * len(first["classes"]), first["ignore_id"])
    truths = dict.fromkeys(part["ground_truth"] for part in parts if part["ground_truth"])
    partial = [f"{part['file']}: {part['partial']}" for part in parts if part["partial"]]
    return {
        "source": "; ".join(dict.fromkeys(part["source"] for part in parts)),
        "ground_truth": "; ".join(truths) or None,
        "partial": " ".join(partial) or None,
        "notes": list(dict.fromkeys(note for part in parts for note in part["notes"])),
        **{key: first[key] for key in _SAME},
        "models": {name: _model(name, parts, keys, table) for name in first["models"]},
        "timings": {
            "parts": [measured for part in parts for measured in _measured(part["timings"])],
            "models": {name: _timings([part["timings"]["models"][name] for part in parts]) for name in first["models"]},
        },
    }


def _measured(timings: dict[str, Any]) -> list[dict[str, Any]]:
    """When and on what a part was measured, or each part of one that is merged itself."""
    return timings.get("parts") or [{key: timings[key] for key in ("date", "machine", "versions")}]


def _keys(parts: Sequence[dict[str, Any]]) -> dict[tuple[str, int, str], str]:
    """What each camera of all is called, by bag, start and own name. Raises MergeError where one counts twice."""
    files: dict[tuple[str, int, str], str] = {}
    for part in parts:
        for camera in next(iter(part["models"].values()))["cameras"].values():
            origin = _origin(camera)
            if origin in files:
                both = f"{files[origin]} and {part['file']} both hold {origin[2]} of {origin[0]}"
                raise MergeError(f"{both}: it would count twice")
            files[origin] = part["file"]
    bags = list(dict.fromkeys((bag, start) for bag, start, _ in files))
    names = dict(zip(bags, bag_names([bag for bag, _ in bags]), strict=True))
    times = Counter(names.values())  # several robots may record to one path
    named = {bag: f"{name}-{bag[1]}" if times[name] > 1 else name for bag, name in names.items()}
    return {origin: named[origin[:2]] + origin[2] for origin in files}


def _origin(camera: dict[str, Any]) -> tuple[str, int, str]:
    return camera["bag"], camera["start_ns"], camera["camera"]


def _model(
    name: str, parts: Sequence[dict[str, Any]], keys: dict[tuple[str, int, str], str], table: LabelTable
) -> dict[str, Any]:
    first = parts[0]["models"][name]
    for part in parts[1:]:
        if differs := [key for key in _OF_MODEL if part["models"][name][key] != first[key]]:
            raise MergeError(f"{part['file']}: {name} has another {differs[0]} than in {parts[0]['file']}")
    cameras = {keys[_origin(camera)]: camera for part in parts for camera in part["models"][name]["cameras"].values()}
    total = reduce(add, (Metrics.from_json(table, camera) for camera in cameras.values()))
    return first | {"total": total.to_json(), "cameras": cameras}


def _timings(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    seconds = sum(part["seconds"] for part in parts)
    histograms: dict[str, dict[str, int]] = {}
    for part in parts:
        for stage, counts in part["histogram_ms"].items():
            summed = histograms.setdefault(stage, {})
            for number, count in counts.items():
                summed[number] = summed.get(number, 0) + count
    stages = {}
    for stage, counts in histograms.items():
        known = [part["latency_ms"][stage] for part in parts if stage in part["latency_ms"]]
        count = sum(counts.values())
        p50, p95, p99 = percentiles_of(counts, (50, 95, 99))
        mean = sum(times["mean"] * times["count"] for times in known) / count
        stages[stage] = {"p50": p50, "p95": p95, "p99": p99, "mean": mean, "count": count}
    frames = stages["total"]["count"] if "total" in stages else 0
    rates = {"frames_per_second": frames / seconds if seconds else None, "seconds": seconds}
    rates |= {"engine_hz": 1e3 / stages["infer"]["mean"] if "infer" in stages else None}
    return rates | {"latency_ms": stages, "histogram_ms": histograms}
