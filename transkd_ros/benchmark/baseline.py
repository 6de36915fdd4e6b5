"""The model against the first graph of `camvid_lite0` in fp32, which every later graph and model is measured by.

That graph lies in the repository's history, under its Git object name. Its network and weights are those of
`camvid_lite0` today; what differs is the layout of the arg-max and the order in which the head interpolates.
"""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from transkd_ros.benchmark.measurement import (
    Measurement,
    Settings,
    Skipped,
    Target,
    frame_messages,
    medians,
    table,
    take_turns,
)
from transkd_ros.frames import decode_image
from transkd_ros.model.bundle import MODEL_ONNX, Bundle, load_bundle
from transkd_ros.model.engines import Runtime, RuntimeUnavailable, open_runtime
from transkd_ros.resources import find_model, share_directory

NETWORK = "camvid_lite0"
FIRST_GRAPH = "cbd3d2b8b4ef29f015fc6817a5eb675503f8403f"
SIZE = (384, 512)  # (height, width)
MOST = 0.5  # times the first graph
LEAST_MIOU = 74.0  # %, of the default model
FIRST = f"first graph of {NETWORK}, fp32"


def measure(settings: Settings) -> Measurement:
    size = settings.bundle.manifest.input_size if settings.quick else SIZE
    with TemporaryDirectory() as folder:
        runtimes = {FIRST: _open(_first_bundle(Path(folder)), "fp32", size)}
        runtimes |= _ways(load_bundle(find_model(NETWORK)), size) | _ways(settings.bundle, size)
        chosen = open_runtime(settings.bundle, device="cpu", input_size=size)
        judged = f"{settings.bundle.manifest.name} by auto: {chosen.engine}, {chosen.precision}"
        runtimes[judged] = chosen
        images = [decode_image(message).rgb(size) for message in frame_messages(4, size)]
        frames = settings.count(full=60, quick=3)
        times = take_turns({name: runtime.infer for name, runtime in runtimes.items()}, images, frames)
        for runtime in runtimes.values():
            runtime.close()

    ms, shortest = medians(times), {name: min(values) for name, values in times.items()}
    rows = table(f"graph at {size[1]}x{size[0]}", "ms", "shortest", "× the first")
    for name in sorted(ms, key=lambda name: -ms[name]):
        rows.add_row(name, f"{ms[name]:.2f}", f"{shortest[name]:.2f}", f"{ms[name] / ms[FIRST]:.2f}")
    values = {"input_size": list(size), "frames": frames, "ms": ms, "shortest_ms": shortest, "first": FIRST_GRAPH}
    targets = [time_target(judged, ms[judged] / ms[FIRST]), *accuracy_targets(settings.bundle, chosen.precision)]
    return Measurement(values | {"judged": judged}, rows, targets, ["by OpenVINO unless it says otherwise, by turns"])


def time_target(name: str, ratio: float) -> Target:
    """Of a model's time over that of the first graph."""
    return Target(name, ratio, "≤", MOST, "× the first graph")


def accuracy_targets(bundle: Bundle, precision: str) -> list[Target]:
    """A target for each split that the bundle says it was measured on in the precision."""
    found = {split: metrics[precision] for split, metrics in bundle.manifest.metrics.items() if precision in metrics}
    return [
        Target(f"mIoU of {bundle.manifest.name} on {split}, {precision}", 100 * metrics["miou"], "≥", LEAST_MIOU, "%")
        for split, metrics in found.items()
    ]


def _first_bundle(folder: Path) -> Bundle:
    """A bundle to be run, not loaded anew. Raises Skipped where there is no Git, or no history of this repository."""
    command = ["git", "-C", str(share_directory()), "cat-file", "blob", FIRST_GRAPH]
    try:
        graph = subprocess.run(command, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        raise Skipped(f"the {FIRST} is in the repository's Git history, which is not here") from None
    (folder / MODEL_ONNX).write_bytes(graph)
    manifest = load_bundle(find_model(NETWORK)).manifest
    return Bundle(folder, replace(manifest, files=manifest.files | {MODEL_ONNX: FIRST_GRAPH}))


def _open(bundle: Bundle, precision: str, size: tuple[int, int]) -> Runtime:
    return open_runtime(bundle, "openvino", "cpu", precision, size)


def _ways(bundle: Bundle, size: tuple[int, int]) -> dict[str, Any]:
    """The bundle in each precision that it and the CPU have."""
    found = {}
    for precision in ("fp32", "bf16", "int8"):
        try:
            found[f"{bundle.manifest.name}, {precision}"] = _open(bundle, precision, size)
        except RuntimeUnavailable:
            continue
    return found
