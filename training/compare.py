"""Compare distillation methods: `python training/compare.py --config config/recipes/suite_camvid.yaml`.

Makes or resumes the runs of a suite one after the other, each a process of training/distill.py, measures what a step of
each method costs, and writes the suite's table: OUTPUT.json, OUTPUT.md and OUTPUT.png. A method that fails leaves its
cell empty. Called again, it trains only what is not there yet.
"""

from __future__ import annotations

import argparse
import json
import shlex
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a script: this folder is not the package's parent
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during the imports, which take seconds; see `cli.run`
    from training.requirements import require

    require()

from training import distill
from training.suite.file import altered, read_suite
from training.suite.page import page, summarise
from training.suite.plan import Budget, Method, Run, Suite
from training.suite.plot import picture
from training.suite.record import read_run
from training.suite.steps import known_costs, step_costs
from transkd_ros import cli
from transkd_ros.files import write_atomic

PATIENCE = 60.0
"""Seconds that an interrupted run has for its orderly end."""


def train(run: Run) -> str | None:
    """Make a run or go on with it, its output in its folder's log.txt; the last line of that if it failed."""
    command = [sys.executable, "-u", distill.__file__, *run.arguments]  # -u: an error is the last line of the log
    if run.last.exists():
        command.append(f"--ckpt_path={run.last}")
    run.folder.mkdir(parents=True, exist_ok=True)
    # In a session of its own, so that a Ctrl-C reaches it once: from here.
    with (
        open(run.folder / "log.txt", "a") as log,
        subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True) as child,
    ):
        try:
            code = child.wait()
        finally:
            _end(child)
    if code == 0 and run.done:
        return None
    if code < 0:  # out of memory, say: the log knows nothing of it
        return f"ended by signal {-code}"
    lines = (run.folder / "log.txt").read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), f"ended with code {code}")


def _end(child: subprocess.Popen) -> None:
    """End a run that is under way as Ctrl-C does: its last checkpoint stays."""
    if child.poll() is None:
        child.send_signal(signal.SIGINT)
        try:
            child.wait(PATIENCE)
        finally:
            child.kill()


def train_all(suite: Suite, chosen: list[Method]) -> dict[str, str]:
    """Make the runs of the chosen rows, their teachers first; the error of each that failed, by its title."""
    teachers = {row.teacher: suite.teacher_run(row.teacher) for row in chosen if row.teacher is not None}
    runs: list[tuple[Run, Run | None]] = [(run, None) for run in teachers.values()]
    runs += [(suite.run(row, seed), teachers.get(row.teacher or "")) for seed in suite.seeds for row in chosen]
    failures: dict[str, str] = {}
    for number, (run, teacher) in enumerate(runs, 1):
        where = f"[{number}/{len(runs)}] {run.title}:"
        if run.done:
            print(f"{where} is there, {_result(run)}", flush=True)
            continue
        print(f"{where} {'goes on' if run.last.exists() else 'starts'}, see {run.folder}/log.txt", flush=True)
        started = time.monotonic()
        error = f"{teacher.title} is not there" if teacher and not teacher.done else train(run)
        if error is None:
            print(f"{where} {_result(run)} after {(time.monotonic() - started) / 60:.0f} min", flush=True)
        else:
            failures[run.title] = error
            print(f"{where} failed: {error}", flush=True)
    return failures


def _result(run: Run) -> str:
    return f"val mIoU {read_run(run.folder)['val_miou']:.2%}"


def found_runs(suite: Suite, rows: list[Method]) -> dict[tuple[str, int], dict[str, Any]]:
    """The metrics.json of every run of these rows that has ended, by method and seed."""
    runs = {(row.method, seed): suite.run(row, seed) for row in rows for seed in suite.seeds}
    return {key: read_run(run.folder) for key, run in runs.items() if run.done}


def write(suite: Suite, budget: Budget, command: str, steps: dict[str, Any] | None, failures: dict[str, str]) -> None:
    """OUTPUT.json, OUTPUT.md and OUTPUT.png from what there is."""
    runs = {name: suite.teacher_run(name) for name in suite.teachers}
    teachers = {name: suite.teacher_record(name) for name, run in runs.items() if run.done}
    taken = suite.controls(budget, steps)
    for control in taken.values():
        suite.check_runs(control)
    controls = {
        method: list(found_runs(suite, [control]).values())
        for method, control in taken.items()
    }
    result = summarise(suite, budget, found_runs(suite, suite.rows), teachers, steps, failures, controls)
    suite.output.parent.mkdir(parents=True, exist_ok=True)
    table, text, image = (suite.output.with_name(suite.output.name + end) for end in (".json", ".md", ".png"))
    write_atomic(table, json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    write_atomic(text, page(suite, result, command, image.name))
    write_atomic(image, picture(result, suite.title))
    print(f"\n{text.read_text()}\nwrote {table}, {text}, {image}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--config", type=Path, required=True, metavar="SUITE", help="a suite of config/recipes")
    parser.add_argument("--only", nargs="+", metavar="METHOD", help="train these; the table still shows all")
    parser.add_argument(
        "--table-only", action="store_true", help="train and measure nothing: the table of what there is"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="[NAME:]KEY=VALUE",
        help="an option of training/distill.py for all methods, or for the method or teacher NAME alone",
    )
    args = parser.parse_args()
    distill.quiet()
    warnings.filterwarnings("ignore", "LightningCLI's args parameter")  # recipes are read from within
    suite = altered(read_suite(args.config), args.set)
    known = [row.method for row in suite.rows]
    if unknown := [name for name in args.only or [] if name not in known]:
        raise cli.CommandError(f"--only {unknown[0]}: no such method; there are {', '.join(known)}")
    budget = suite.check()
    if args.table_only:
        steps, failures = known_costs(suite), {}
    else:
        only = args.only or known
        failures = train_all(suite, [row for row in suite.rows if row.method in only])
        steps = step_costs(suite, budget.options)
        taken = suite.controls(budget, steps).items()
        controls = {control.method: control for method, control in taken if method in only}
        for control in controls.values():
            suite.check_runs(control)
        failures |= train_all(suite, list(controls.values()))
    changes = [] if not args.set else ["--set", *args.set]
    command = shlex.join(["python", "training/compare.py", "--config", str(args.config), *changes])
    write(suite, budget, command, steps, failures)
    return 1 if failures else 0


if __name__ == "__main__":
    cli.run(main, *distill.BAD_INPUT)
