"""The table of a comparison, from what runs left behind:

    python training/results.py --teacher runs/T --student runs/S --runs runs/A runs/B --output docs/results/camvid

Reads each run's metrics.json and writes OUTPUT.json and OUTPUT.md. The table of a suite of methods, whose parts come
from here, stands in `training.suite.page`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # run as a script: this folder is not the package's parent
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from transkd_ros import cli
from transkd_ros.files import write_atomic

BUDGET = ("network", "epochs", "steps", "seed", "macs_at", "precision")
"""What the student's run and the distilled runs must have in common."""


def read_run(folder: Path) -> dict[str, Any]:
    """A run's metrics.json. Raises CommandError for one that is missing or of another format."""
    path = folder / "metrics.json"
    try:
        run = json.loads(path.read_text())
    except FileNotFoundError:
        raise cli.CommandError(f"{path} is missing: a run writes it when it ends") from None
    except ValueError as error:
        raise cli.CommandError(f"{path} is not JSON: {error}") from error
    missing = [key for key in ("name", "method", "val_miou", "val_iou", "wall_seconds", *BUDGET) if key not in run]
    if missing:
        raise cli.CommandError(f"{path} lacks {', '.join(missing)}: it is not of training/distill.py as it is now")
    return run


def recovered(run: dict[str, Any], student: dict[str, Any], teacher: dict[str, Any]) -> float | None:
    """The share of the gap between student and teacher that a run closed: (run - student) / (teacher - student).

    None where the teacher is no better than the student.
    """
    gap = teacher["val_miou"] - student["val_miou"]
    return (run["val_miou"] - student["val_miou"]) / gap if gap > 0 else None


def compare(teacher: dict[str, Any], student: dict[str, Any], runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The runs with `role` and the share of the gap that each recovered.

    Raises CommandError for runs that are not of one budget.
    """
    for run in runs:
        for key in BUDGET:
            if run[key] != student[key]:
                raise cli.CommandError(
                    f"{run['name']} and {student['name']} are not of one budget: {key} is {run[key]} and {student[key]}"
                )
    gap = teacher["val_miou"] - student["val_miou"]
    rows = [{"role": "teacher", **teacher}, {"role": "student alone", **student}]
    rows += [{"role": "distilled", **run, "gap_recovered": recovered(run, student, teacher)} for run in runs]
    return {"gap": gap, "runs": rows}


def markdown(headings: Sequence[str], rows: Iterable[Sequence[Any]], texts: int = 1) -> list[str]:
    """The lines of a Markdown table; the first `texts` columns are left-aligned, and None is an empty cell (–)."""
    rule = "|" + "---|" * texts + "---:|" * (len(headings) - texts)
    first, *others = (
        f"| {' | '.join('–' if cell is None else str(cell) for cell in row)} |" for row in (headings, *rows)
    )
    return [first, rule, *others]


def by_class(columns: dict[str, dict[str, float]]) -> list[str]:
    """The lines of a table of IoU per class, a column each."""
    classes = dict.fromkeys(name for iou in columns.values() for name in iou)
    rows = [[name, *(percent(iou.get(name), 1) for iou in columns.values())] for name in classes]
    return markdown(["class", *columns], rows)


def percent(value: float | None, digits: int = 2) -> str | None:
    return None if value is None else f"{value:.{digits}%}"


def machines(runs: Iterable[dict[str, Any]]) -> str:
    """What the runs were made on."""
    found = (run["machine"] for run in runs)
    return "; ".join(sorted({f"{m['cpu']}, {m['cpus']} CPUs" + (f", {m['gpu']}" if "gpu" in m else "") for m in found}))


def page(compared: dict[str, Any], title: str, command: str) -> str:
    """The comparison as Markdown: budget and result per run, then IoU per class."""
    runs = compared["runs"]
    headings = ("run", "network", "method", "teacher", "val mIoU", "last epoch", "gap recovered")
    rows = [
        [
            *(run[key] for key in ("name", "network", "method", "teacher")),
            *(percent(run[key]) for key in ("val_miou", "last_val_miou")),
            percent(run.get("gap_recovered"), 1),
            *(run[key] for key in ("epochs", "steps", "seed")),
            f"{run['wall_seconds'] / 60:.0f}",
        ]
        for run in runs
    ]
    lines = [f"# {title}", "", f"Written by `{command}` from the runs' `metrics.json`; do not edit.", ""]
    lines += markdown((*headings, "epochs", "steps", "seed", "min"), rows, texts=4)
    lines += ["", "## IoU per class", "", *by_class({run["name"]: run["val_iou"] for run in runs})]
    height, width = runs[1]["macs_at"]
    lines += [
        "",
        f"Crops of {width}x{height}, {runs[1]['precision']}; on {machines(runs)}. Every student costs "
        f"{runs[1]['parameters'] / 1e6:.2f} M parameters and {runs[1]['macs'] / 1e9:.2f} GMACs at that size, the "
        f"teacher {runs[0]['parameters'] / 1e6:.2f} M and {runs[0]['macs'] / 1e9:.2f}. Gap recovered: "
        "(run - student alone) / (teacher - student alone), of the best epochs.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("--teacher", type=Path, required=True, help="folder of the teacher's run")
    parser.add_argument("--student", type=Path, required=True, help="folder of the run on labels alone")
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="folders of the distilled runs")
    parser.add_argument("--title", default="Distillation on CamVid val")
    parser.add_argument("--output", type=Path, required=True, help="file without its suffix")
    args = parser.parse_args()
    compared = compare(read_run(args.teacher), read_run(args.student), [read_run(run) for run in args.runs])
    write_atomic(args.output.with_suffix(".json"), json.dumps(compared, indent=2) + "\n")
    write_atomic(args.output.with_suffix(".md"), page(compared, args.title, "training/results.py"))
    print(args.output.with_suffix(".md").read_text())


if __name__ == "__main__":
    cli.run(main)
