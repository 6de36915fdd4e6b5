"""The offline evaluation: its rate against the engine's own, and its memory on a long bag."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import cv2
import numpy as np

from transkd_ros.bags.messages import compressed_message, image_message
from transkd_ros.bags.storage import BagReader, BagWriter
from transkd_ros.benchmark.measurement import Measurement, Settings, Target, table
from transkd_ros.evaluate import pipeline
from transkd_ros.evaluate.scoring import Score
from transkd_ros.evaluate.truth import TopicTruth
from transkd_ros.model.bundle import Bundle
from transkd_ros.model.engines import Runtime, open_runtime
from transkd_ros.scenes import Drive
from transkd_ros.segmenter import Segmenter
from transkd_ros.timing import Timings

LEAST_RATE = 85.0  # % of the engine's own
MOST_MEMORY = 300.0  # MB above the engine's own
SIZE = (480, 640)  # (height, width)
MINUTES = 10
RATE = 10.0  # Hz of the long bag
TURN = 240  # frames of the short bag, which engine and evaluation take by turns
_FRAMES, _LABELS = "/camera/image_raw/compressed", "/camera/ground_truth"
_STREETS = 12  # different frames

# Each in a process of its own, which tells its peak at the end. (`ru_maxrss` would begin with that of the parent.)
_ENGINE_ALONE = """
from transkd_ros.model.bundle import load_bundle
from transkd_ros.model.engines import open_runtime
open_runtime(load_bundle(sys.argv[1]), device="cpu")
"""
_EVALUATION = """
from transkd_ros.evaluate.__main__ import main
main()
"""
_PEAK = """
from transkd_ros.benchmark.memory import resident
print(resident(os.getpid())["peak"])
"""


def measure(settings: Settings) -> Measurement:
    rounds = 1 if settings.quick else 5
    frames = settings.count(full=round(MINUTES * 60 * RATE), quick=20)
    with TemporaryDirectory() as folder:
        short, long = Path(folder) / "short", Path(folder) / "long"
        _write_bag(short, min(frames, TURN))
        _write_bag(long, frames)
        engine_hz, evaluated_hz = _rates(settings.bundle, short, rounds)
        model = settings.bundle.path
        options = ("--bag", long, "--model", model, "--device", "cpu", "--output", Path(folder) / "out")
        memory = {"engine": _peak(_ENGINE_ALONE, model), "evaluation": _peak(_EVALUATION, *options)}
        megabytes = sum(file.stat().st_size for file in long.iterdir()) / 1e6
    return _result(engine_hz, evaluated_hz, memory, frames, megabytes)


def _write_bag(path: Path, count: int) -> None:
    """JPEG frames of rendered streets with raw labels, which are large."""
    drive = Drive(1, SIZE)
    streets = [drive.frame(index, RATE) for index in range(min(count, _STREETS))]
    jpegs = [cv2.imencode(".jpg", rgb[..., ::-1])[1].tobytes() for rgb, _ in streets]
    with BagWriter(path) as bag:
        for index in range(count):
            stamp = 1_000_000_000 + round(index * 1e9 / RATE)
            bag.write(_FRAMES, compressed_message(jpegs[index % _STREETS], "jpeg", stamp))
            bag.write(_LABELS, image_message(streets[index % _STREETS][1], "mono8", stamp))


# -------------------------------------------------------------------------------------------------- rate


def _rates(bundle: Bundle, bag: Path, rounds: int) -> tuple[list[float], list[float]]:
    """Frames per second of the engine alone and of the evaluation, round by round."""
    runtime = open_runtime(bundle, device="cpu")
    image = np.zeros((*runtime.input_size, 3), np.uint8)
    with BagReader(bag) as reader:
        frames = reader.counts[_FRAMES]

    def hz(run: Callable[[], None]) -> float:
        start = time.perf_counter()
        run()
        return frames / (time.perf_counter() - start)

    def infer_all() -> None:
        for _ in range(frames):
            runtime.infer(image)

    taken = [(hz(infer_all), hz(partial(_evaluate, bundle, runtime, bag))) for _ in range(rounds)]
    return [engine for engine, _ in taken], [evaluated for _, evaluated in taken]


def _evaluate(bundle: Bundle, runtime: Runtime, bag: Path) -> None:
    """All that the command does with the bag's frames."""
    with BagReader(bag) as reader, BagReader(bag) as labels:
        shots = pipeline.shots(reader, _FRAMES, TopicTruth(labels, _LABELS), runtime.input_size)
        pipeline.evaluate(shots, Segmenter(runtime), Score(bundle.manifest.labels), Timings(window=None))


# ------------------------------------------------------------------------------------------------ memory


def _peak(code: str, *arguments: object) -> float:
    """MB of physical memory that a Python process running `code` holds at most."""
    command = [sys.executable, "-c", f"import os, sys{code}{_PEAK}", *map(str, arguments)]
    told = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
    return float(told.split()[-1])


def _result(
    engine_hz: list[float], evaluated_hz: list[float], memory: dict[str, float], frames: int, megabytes: float
) -> Measurement:
    percent = median(100 * own / engine for engine, own in zip(engine_hz, evaluated_hz, strict=True))
    above = memory["evaluation"] - memory["engine"]
    rows = table("offline evaluation", "frames/s", "peak memory (MB)")
    rows.add_row("engine alone", f"{median(engine_hz):.1f}", f"{memory['engine']:.0f}")
    rows.add_row("evaluation", f"{median(evaluated_hz):.1f}", f"{memory['evaluation']:.0f}")
    values = {
        "size": list(SIZE),
        "frames_per_second": {"engine": engine_hz, "evaluation": evaluated_hz},
        "memory": {"frames": frames, "bag_mb": megabytes, "peak_mb": memory},
    }
    targets = [
        Target("rate of the evaluation", percent, "≥", LEAST_RATE, "% of the engine's"),
        Target("memory above the engine's own", above, "<", MOST_MEMORY, "MB"),
    ]
    notes = [
        f"{SIZE[1]}x{SIZE[0]} JPEG with labels, the fastest engine of the CPU; rates by turns of {TURN} frames",
        f"memory: a bag of {frames} frames, {megabytes:.0f} MB",
    ]
    return Measurement(values, rows, targets, notes)
