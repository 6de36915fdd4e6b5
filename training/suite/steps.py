"""What training costs by each method of a suite, in one run: kept in the suite's folder, as steps.json."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import Any

import torch

from training.benchmark import random_batch, step_times
from training.cost import costs
from training.distill import BAD_INPUT, command_of, settings_of
from training.module import SegmentationModule
from training.suite.plan import FREE, Method, Suite
from transkd_ros import cli, sizes
from transkd_ros.files import write_atomic
from transkd_ros.reports.machine import machine

STEPS = 12  # timed


def known_costs(suite: Suite) -> dict[str, Any] | None:
    """What `step_costs` has measured before, if it has."""
    kept = suite.folder / "steps.json"
    if not kept.exists():
        return None
    found = json.loads(kept.read_text())
    return found | {"crop": sizes.named(sizes.read(found["crop"]))}  # it may be older


def step_costs(suite: Suite, options: dict[str, Any]) -> dict[str, Any]:
    """`ratio` by method: its step over (forward of its teacher + the plain student's step); and the `ms` of each.

    `training_only` has the parameters, and the multiply-accumulates of one crop, that a method adds. `options` are the
    student's, whose crop and batch size count. All methods take turns in this process, those with several phases in
    their first. A method whose teacher is not trained is left out; one whose networks cannot be built has None. What
    was measured before on this machine is taken as it is unless a method lacks its value, or has other options by now.
    """
    crop, count = options["data.init_args.crop"], options["data.init_args.batch_size"]
    about = {"crop": sizes.named(crop), "batch": count, "steps": STEPS, "machine": machine()}
    known = known_costs(suite)
    wanted = [row for row in suite.rows if row.teacher is None or suite.teacher_run(row.teacher).done]
    recipes = {row.method: _recipe(suite, row) for row in wanted}
    if known and known.items() >= about.items() and known.get("recipes", {}).items() >= recipes.items():
        return known
    modules = _modules(suite, wanted)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"measures a step of {', '.join(modules)}", flush=True)
    times = step_times(modules, random_batch(count, crop, device), STEPS)
    ratios: dict[str, float | None] = dict.fromkeys(row.method for row in wanted)
    if plain := times.get(suite.student.method):
        for name, module in modules.items():
            ratios[name] = times[name] / (
                plain + sum(times[f"forward {teacher.source}"] for teacher in module.teachers)
            )
    found = {name: costs(module, crop).get("training only") for name, module in modules.items()}
    added = {name: asdict(cost) for name, cost in found.items() if cost is not None}
    measured = about | {"recipes": recipes, "ms": times, "ratio": ratios, "training_only": added}
    suite.folder.mkdir(parents=True, exist_ok=True)
    write_atomic(suite.folder / "steps.json", json.dumps(measured, indent=2) + "\n")
    return measured


def _recipe(suite: Suite, row: Method) -> str:
    """A digest of all options that a method's step may depend on."""
    options = settings_of(list(suite.run(row, suite.seeds[0]).arguments)).items()
    kept = {name: str(value) for name, value in options if name not in (*FREE, "seed_everything")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def _modules(suite: Suite, rows: list[Method]) -> dict[str, SegmentationModule]:
    """The training module of each method that can be built."""
    modules = {}
    for row in rows:
        try:
            modules[row.method] = command_of(list(suite.run(row, suite.seeds[0]).arguments)).model
        except (*BAD_INPUT, cli.CommandError, OSError) as error:
            print(f"{row.method}: its step is not measured: {cli.one_line(error)}", flush=True)
    return modules
