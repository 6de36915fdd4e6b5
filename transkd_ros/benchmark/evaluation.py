"""The offline evaluation: its rate against the engine's own, and its memory on a long bag."""

from __future__ import annotations

import os
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

from transkd_ros import bags
from transkd_ros.benchmark.measurement import Measurement, Settings, Target, table
from transkd_ros.bundle import Bundle
from transkd_ros.evaluate import pipeline
from transkd_ros.evaluate.pipeline import Latencies
from transkd_ros.evaluate.scoring import Score
from transkd_ros.evaluate.truth import TopicTruth
from transkd_ros.runtime import Runtime, open_runtime
from transkd_ros.scenes import Drive
from transkd_ros.segmenter import Segmenter

LEAST_RATE = 90.0  # % of the engine's own
MOST_MEMORY = 300.0  # MB above the engine's own
SIZE = (480, 640)  # (height, width)
MINUTES = 10
RATE = 10.0  # Hz of the long bag
TURN = 60  # frames of the short bag: engine and evaluation take turns with it
_FRAMES, _LABELS = "/camera/image_raw/compressed", "/camera/ground_truth"
_STREETS = 12  # different frames

# Load the engine and let it see one frame: what any process that runs it has to hold.
_ENGINE_ALONE = """
import sys
from transkd_ros.bundle import load_bundle
from transkd_ros.runtime import open_runtime
open_runtime(load_bundle(sys.argv[1]), device="cpu", want_confidence=False)
"""


def measure(settings: Settings) -> Measurement:
    rounds = 1 if settings.quick else 7
    frames = settings.count(full=round(MINUTES * 60 * RATE), quick=20)
    with TemporaryDirectory() as folder:
        short, long = Path(folder) / "short", Path(folder) / "long"
        _write_bag(short, min(frames, TURN))
        _write_bag(long, frames)
        engine_hz, evaluated_hz = _rates(settings.bundle, short, rounds)
        memory = {
            "engine": _peak("-c", _ENGINE_ALONE, str(settings.bundle.path)),
            "evaluation": _peak(*_command(settings.bundle, long, Path(folder) / "out")),
        }
        megabytes = sum(file.stat().st_size for file in long.iterdir()) / 1e6
    return _result(engine_hz, evaluated_hz, memory, frames, megabytes)


def _write_bag(path: Path, count: int) -> None:
    """JPEG frames of rendered streets with raw labels, which are large."""
    drive = Drive(1, SIZE)
    streets = [drive.frame(index, RATE) for index in range(min(count, _STREETS))]
    jpegs = [cv2.imencode(".jpg", rgb[..., ::-1])[1].tobytes() for rgb, _ in streets]
    with bags.BagWriter(path) as bag:
        for index in range(count):
            stamp = 1_000_000_000 + round(index * 1e9 / RATE)
            bag.write(_FRAMES, bags.compressed_message(jpegs[index % _STREETS], "jpeg", stamp))
            bag.write(_LABELS, bags.image_message(streets[index % _STREETS][1], "mono8", stamp))


# -------------------------------------------------------------------------------------------------- rate


def _rates(bundle: Bundle, bag: Path, rounds: int) -> tuple[list[float], list[float]]:
    """Frames per second of the engine alone and of the evaluation, round by round."""
    runtime = open_runtime(bundle, device="cpu", want_confidence=False)
    image = np.zeros((*runtime.input_size, 3), np.uint8)
    with bags.BagReader(bag) as reader:
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
    with bags.BagReader(bag) as reader, bags.BagReader(bag) as labels:
        shots = pipeline.shots(reader, _FRAMES, TopicTruth(labels, _LABELS), runtime.input_size)
        pipeline.evaluate(shots, Segmenter(runtime), Score(bundle.manifest.labels), Latencies())


# ------------------------------------------------------------------------------------------------ memory


def _command(bundle: Bundle, bag: Path, output: Path) -> list[str]:
    arguments = ["--bag", bag, "--model", bundle.path, "--device", "cpu", "--output", output]
    return ["-m", "transkd_ros.evaluate", *map(str, arguments)]


def _peak(*arguments: str) -> float:
    """MB of physical memory that a Python process held at most."""
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    try:
        _, status, usage = os.wait4(process.pid, 0)
    except BaseException:  # Ctrl-C
        process.kill()
        process.wait()
        raise
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return usage.ru_maxrss * 1024 / 1e6


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
        f"{SIZE[1]}x{SIZE[0]} JPEG with labels, the bf16 or fp32 engine of the CPU; rates by turns of {TURN} frames",
        f"memory: a bag of {frames} frames, {megabytes:.0f} MB",
    ]
    return Measurement(values, rows, targets, notes)
