"""Soak the segmentation node: overload, malformed frames, lifecycle loops, a throwing engine, clock jumps, and more."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transkd_ros import cli

if TYPE_CHECKING:
    from transkd_ros.soak.rounds import Rounds
    from transkd_ros.soak.watch import Watcher

MOST_GROWTH = 2.0  # % of the resident memory, from the end of the warm-up on
LATENESS = 0.5  # seconds that a frame of just the age limit may still take to its mask on a busy machine
LEAST_ROUNDS = 3  # the first is the warm-up


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m transkd_ros.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (default 10); a round is always finished")
    parser.add_argument("--model", help="name of a shipped model, or folder of a bundle")
    parser.add_argument("--output", type=Path, default=Path("build/soak.json"), help="file (default build/soak.json)")
    return parser


def main() -> int:
    args = _parser().parse_args()
    if not 0 < args.minutes <= 24 * 60:
        raise cli.CommandError(f"--minutes {args.minutes:g}: it must be above 0 and a day at the most")
    from transkd_ros.demo.graph import set_environment
    from transkd_ros.resources import DEFAULT_MODEL, find_model

    set_environment()
    model = find_model(args.model or DEFAULT_MODEL)
    with tempfile.TemporaryDirectory() as folder:
        report = _soak(model, args.minutes, Path(folder))
    from transkd_ros.files import write_atomic

    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(args.output, json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    for name, check in report["checks"].items():
        print(f"{'ok    ' if check['met'] else 'FAILED'} {name}: {check['found']}")
    print(args.output)
    return 0 if all(check["met"] for check in report["checks"].values()) else 1


def _soak(model: Path, minutes: float, folder: Path) -> dict[str, Any]:
    """Start node and watcher, run the rounds, and judge. Raises CommandError if the node ends or does not answer."""
    import rclpy
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
    from rclpy.signals import SignalHandlerOptions

    from transkd_ros.demo.child_node import NodeProcess
    from transkd_ros.soak.camera import CAMERA
    from transkd_ros.soak.node import FAULT
    from transkd_ros.soak.rounds import AGE_LIMIT, Rounds
    from transkd_ros.soak.watch import Watcher

    fault = folder / "fault"
    os.environ[FAULT] = str(fault)
    parameters = {
        "model": str(model.resolve()),
        "device": "cpu",
        "cameras": [CAMERA],
        "use_sim_time": True,
        "max_frame_age": AGE_LIMIT,
        "diagnostics_period": 0.25,
    }
    with NodeProcess(parameters, folder / "node.log", "node", "transkd_ros.soak") as node:
        rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
        watcher = Watcher()
        executor = SingleThreadedExecutor()
        executor.add_node(watcher)

        def spin() -> None:
            with contextlib.suppress(ExternalShutdownException):
                executor.spin()

        spinner = threading.Thread(target=spin, name="watcher", daemon=True)
        spinner.start()
        rounds = Rounds(watcher, node, folder, fault)
        start, problem = time.monotonic(), ""
        try:
            watcher.wait_for(lambda: watcher.state() == "active", "the node active")
            node.check()
            while time.monotonic() < start + 60 * minutes or rounds.done < LEAST_ROUNDS:
                rounds.run()
                print(f"round {rounds.done}: {watcher.masks} masks, {rounds.samples[-1]}", flush=True)
        except cli.CommandError as error:
            problem = str(error)
        finally:
            executor.shutdown(timeout_sec=0.5)
            rclpy.try_shutdown()
            spinner.join(0.5)
    return _report(model.name, time.monotonic() - start, watcher, rounds, problem)


def _report(model: str, seconds: float, watcher: Watcher, rounds: Rounds, problem: str) -> dict[str, Any]:
    from transkd_ros.reports.machine import machine, versions
    from transkd_ros.soak.rounds import AGE_LIMIT

    samples = rounds.samples
    settled = samples[max(1, len(samples) // 4) :]  # the first rounds are the warm-up
    warm, last = (settled[0], settled[-1]) if settled else ({}, {})
    growth = 100 * (last["memory_mb"] / warm["memory_mb"] - 1) if warm else None

    def check(met: bool, found: Any) -> dict[str, Any]:
        return {"met": met, "found": found}

    constant = {name: sorted({sample[name] for sample in settled}) for name in ("threads", "descriptors")}
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "model": model,
        "seconds": round(seconds, 1),
        "done": {
            "rounds": rounds.done,
            "masks": watcher.masks,
            "lifecycle loops": rounds.loops,
            "clock jumps": rounds.jumps,
            "engine failures": rounds.throws,
            "cameras killed": rounds.cameras,
        },
        "checks": {
            "the node neither ended nor fell silent": check(not problem, problem or "as it should"),
            "nothing wrong with any mask or answer": check(not watcher.wrong, dict(watcher.wrong)),
            f"no mask later than {AGE_LIMIT + LATENESS} s": check(
                watcher.oldest <= AGE_LIMIT + LATENESS, round(watcher.oldest, 3)
            ),
            "frames in = masks + drops": check(
                bool(rounds.unexplained) and not any(rounds.unexplained), rounds.unexplained
            ),
            f"memory grows less than {MOST_GROWTH} %": check(
                growth is not None and growth < MOST_GROWTH, None if growth is None else round(growth, 2)
            ),
            **{f"{name} constant": check(len(values) == 1, values) for name, values in constant.items()},
        },
        "footprint": samples,
    }


if __name__ == "__main__":
    cli.run(main)
