"""Latency of the bundle on every engine, device and precision that this machine has, and of the one `auto` takes."""

from __future__ import annotations

from typing import Any

from transkd_ros.benchmark.measurement import (
    Measurement,
    Settings,
    Target,
    frame_messages,
    medians,
    table,
    take_turns,
)
from transkd_ros.frames import decode_image
from transkd_ros.model.engines import PRECISIONS, Runtime, RuntimeUnavailable, describe_engines, open_runtime

MOST = 1.05  # times the fastest, for what auto takes


def measure(settings: Settings) -> Measurement:
    size = settings.bundle.manifest.input_size
    engines = describe_engines()
    runtimes = {
        f"{info.engine} {info.device} {precision}": runtime
        for info in engines
        if info.usable
        for precision in PRECISIONS
        if precision != "auto" and (runtime := _open(settings, info.engine, info.device, precision))
    }
    chosen = open_runtime(settings.bundle)
    chosen.close()
    frames = settings.count(full=60, quick=3)
    images = [decode_image(message).rgb(size) for message in frame_messages(4, size)]
    times = medians(take_turns({name: runtime.infer for name, runtime in runtimes.items()}, images, frames))
    for runtime in runtimes.values():
        runtime.close()

    auto = f"{chosen.engine} {chosen.device} {chosen.precision}"
    target = Target("auto against the fastest", times[auto] / min(times.values()), "≤", MOST, "×")
    rows = table(f"engine at {size[1]}x{size[0]}", "ms")
    for name, ms in sorted(times.items(), key=lambda item: item[1]):
        rows.add_row(name, f"{ms:.2f}")
    values: dict[str, Any] = {"input_size": list(size), "frames": frames, "ms": times}
    values["engines"] = [info._asdict() for info in engines]
    values["auto"] = auto
    notes = [f"{info.engine} {info.device}: {info.note}" for info in engines]
    return Measurement(values, rows, [target], [f"auto: {auto}", *notes])


def _open(settings: Settings, engine: str, device: str, precision: str) -> Runtime | None:
    """None where the device lacks the precision, or the bundle what the engine needs."""
    try:
        return open_runtime(settings.bundle, engine, device, precision)
    except RuntimeUnavailable:
        return None
