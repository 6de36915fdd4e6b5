"""Soak the segmentation node: overload, malformed frames, lifecycle loops, a throwing engine, clock jumps, and more."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transkd_ros import cli

if TYPE_CHECKING:
    from transkd_ros.soak.rounds import Rounds
    from transkd_ros.soak.watch import Watcher

LEAST_ROUNDS = 5  # the first is the warm-up


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
    """Start node and watcher, run the rounds until the time is over or the node no longer answers, and judge."""
    from transkd_ros.demo.child_node import NodeProcess
    from transkd_ros.demo.graph import spinning
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
    process = NodeProcess(parameters, folder / "node.log", "node", "transkd_ros.soak")
    with process as node, spinning(Watcher) as (watcher,):
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
    return _report(model.name, time.monotonic() - start, watcher, rounds, problem)


def _report(model: str, seconds: float, watcher: Watcher, rounds: Rounds, problem: str) -> dict[str, Any]:
    from transkd_ros.reports.machine import machine, versions
    from transkd_ros.soak.verdict import checks

    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "model": model,
        "seconds": round(seconds, 1),
        "done": {
            "rounds": rounds.done,
            "lifecycle loops": rounds.loops,
            "clock jumps": rounds.jumps,
            "engine failures": rounds.throws,
            "cameras killed": rounds.cameras,
            "masks checked": watcher.masks,
        },
        "frames": rounds.frames,
        "checks": checks(watcher, rounds, problem),
        "footprint": rounds.samples,
    }


if __name__ == "__main__":
    cli.run(main)
