"""What a run has left behind, its metrics.json, and the share of a gap that it closed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from training.soft_labels import INDEX
from transkd_ros import cli

NEEDED = (
    *("name", "method", "network", "val_miou", "val_iou", "epochs", "steps", "seed"),
    *("wall_seconds", "parameters", "macs", "macs_at", "precision", "machine"),
)


def read_run(folder: Path) -> dict[str, Any]:
    """A run's metrics.json. Raises CommandError for one that is missing or of another format."""
    path = folder / "metrics.json"
    try:
        run = json.loads(path.read_text())
    except FileNotFoundError:
        raise cli.CommandError(f"{path} is missing: a run writes it when it ends") from None
    except ValueError as error:
        raise cli.CommandError(f"{path} is not JSON: {error}") from error
    if missing := [key for key in NEEDED if key not in run]:
        raise cli.CommandError(f"{path} lacks {', '.join(missing)}: it is not of training/distill.py as it is now")
    return run


def read_committee(score: Path, store: Path) -> dict[str, Any]:
    """What stands in a metrics.json, of the committee that wrote a store of soft labels.

    `score` is the file that training/annotate.py --score wrote with it. Raises CommandError where there is none, or it
    is another committee's.
    """
    try:
        content = json.loads(score.read_text(encoding="utf-8"))
        asked = json.loads((store / INDEX).read_text(encoding="utf-8"))
        found, annotators = content["val"]["committee"], content["annotators"]
    except (OSError, ValueError, KeyError) as error:
        hint = f"training/annotate.py --output {store} --score {score} writes both"
        raise cli.CommandError(f"{cli.one_line(error)}; {hint}") from error
    if differs := [name for name, value in annotators.items() if name != "classes" and asked.get(name) != value]:
        raise cli.CommandError(f"{score} is of another committee than {store}: other {', '.join(differs)}")
    return {"val_miou": found["miou"], "val_iou": found["iou"], "machine": content["machine"], "macs": None}


def recovered(run: dict[str, Any], student: dict[str, Any], goal: dict[str, Any]) -> float | None:
    """The share of the gap between student and goal, a teacher's run or another, that a run closed.

    (run - student) / (goal - student); None where the goal is no better than the student.
    """
    gap = goal["val_miou"] - student["val_miou"]
    return (run["val_miou"] - student["val_miou"]) / gap if gap > 0 else None
