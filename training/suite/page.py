"""What a suite's runs say together: the JSON and the Markdown page of its table.

A cell is empty where nothing was measured: a run that is not there, or one that is older than a value.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from statistics import fmean, stdev
from typing import Any

from training.callbacks.gradients import LABELS
from training.sizes import ImageSize
from training.suite.plan import Budget, Suite
from training.suite.record import recovered
from training.suite.tables import by_class, machines, markdown, percent
from transkd_ros import sizes

Record = dict[str, Any]

SHOWN = (
    *(f"model.{name}" for name in ("encoder_weights", "optimiser", "lr", "encoder_lr_scale", "weight_decay")),
    *(f"model.{name}" for name in ("warmup_steps", "power", "class_weights")),
    *(f"data.init_args.{name}" for name in ("crop", "zoom", "scale", "batch_size", "limit", "scenes")),
    *(f"trainer.{name}" for name in ("precision", "accumulate_grad_batches", "gradient_clip_val", "callbacks")),
)
"""The options of the budget that a page names; all others are equal as well, or declared."""


def summarise(
    suite: Suite,
    budget: Budget,
    runs: dict[tuple[str, int], Record],
    teachers: dict[str, Record],
    steps: Record | None,
    failures: dict[str, str],
    controls: dict[str, list[Record]] | None = None,
) -> Record:
    """The suite as JSON: `runs` that there are, each under its `method`, and a summary of each of the `methods`.

    Args:
        suite: what is compared.
        budget: what its runs share.
        runs: the metrics.json of each run that has ended, by method and seed.
        teachers: the metrics.json of each trained teacher, and `same_data` (see Suite).
        steps: what `training.suite.steps` measured, None where it did not.
        failures: the error of each run that failed, by its title.
        controls: by method, the metrics.json of the runs of the student alone that took its time (Suite.controls).
    """
    measured = steps or {"ratio": {}, "training_only": {}}
    found: list[Record] = []
    for row in suite.rows:
        for seed in suite.seeds:
            if (run := runs.get((row.method, seed))) is None:
                continue
            names = {"method": row.method, "teacher": row.teacher, "distiller": run["method"], "seed": seed}
            student, goal = runs.get((suite.student.method, seed)), _goal(suite, row.teacher, seed, runs, teachers)
            share = recovered(run, student, goal) if student and goal else None
            found.append({**run, **names, "step_cost_ratio": measured["ratio"].get(row.method), "gap_recovered": share})
    summary = [
        _summary(row.method, row.teacher, teachers, measured, [run for run in found if run["method"] == row.method])
        for row in suite.rows
    ]
    for values in summary:
        if alone := (controls or {}).get(values["method"]):
            taken = {"epochs": alone[0]["epochs"], "val_miou": spread(run["val_miou"] for run in alone)}
            values["student_in_that_time"] = taken
    return {
        "runs": found,
        "methods": summary,
        "teachers": teachers,
        "step_cost": steps,
        "failures": failures,
        "budget": {name: _plain(budget.options.get(name)) for name in SHOWN},
        "differences": [
            asdict(it) | {"value": _plain(it.value), "students": _plain(it.students)} for it in budget.differences
        ],
    }


def _goal(
    suite: Suite, teacher: str | None, seed: int, runs: dict[tuple[str, int], Record], teachers: dict[str, Record]
) -> Record | None:
    """The far end of the gap that a run may close; None where there is none, or the two cannot be compared."""
    if suite.goal is not None:
        return runs.get((suite.goal, seed))
    found = teachers.get(teacher or "")
    return found if found and found["same_data"] else None


def _plain(value: Any) -> Any:
    """An option's value as JSON has it: a callback is its name and its settings."""
    if isinstance(value, ImageSize):
        return sizes.named(value)
    if isinstance(value, (list, tuple)):
        return [_plain(it) for it in value]
    if hasattr(value, "class_path"):
        settings = vars(value.get("init_args", {})).items()
        return {value.class_path.rpartition(".")[2]: {name: it for name, it in settings if it is not None}}
    return value if isinstance(value, (int, float, str, dict, type(None))) else str(value)


def _summary(
    method: str, teacher: str | None, teachers: dict[str, Record], steps: Record, runs: list[Record]
) -> Record:
    """A method over its seeds: each value as {"mean", "std"}, std None for a single run, or None without any."""
    taught = teachers.get(teacher or "")
    classes = dict.fromkeys(name for run in runs for name in run["val_iou"])
    gradients = dict.fromkeys(name for run in runs for name in run.get("gradients", {}))
    names = ("val_miou", "gap_recovered", "wall_seconds", "prepare_seconds")
    scores = ("val_pixel_accuracy", "val_high_precision_accuracy", "val_miou_variance")
    return {
        "method": method,
        "teacher": teacher,
        "seeds": [run["seed"] for run in runs],
        "teacher_val_miou": taught["val_miou"] if taught and taught["same_data"] else None,
        **{name: spread(run.get(name) for run in runs) for name in (*names, *scores)},
        "gradients": {name: spread(run.get("gradients", {}).get(name) for run in runs) for name in gradients},
        "val_iou": {name: fmean(run["val_iou"][name] for run in runs if name in run["val_iou"]) for name in classes},
        "step_cost_ratio": steps["ratio"].get(method),
        "training_only": steps["training_only"].get(method),
        "parameters": runs[0]["parameters"] if runs else None,
        "macs": runs[0]["macs"] if runs else None,
        "macs_of_teacher": _share_of_macs(runs[0], taught) if runs and taught else None,
    }


def _share_of_macs(run: Record, teacher: Record) -> float | None:
    if teacher["macs"] is None:  # a committee's
        return None
    same_size = sizes.read(run["macs_at"]) == sizes.read(teacher["macs_at"])
    return run["macs"] / teacher["macs"] if same_size else None


def spread(values: Iterable[float | None]) -> dict[str, float | None] | None:
    """Mean and sample standard deviation over seeds of the values that there are."""
    known = [value for value in values if value is not None]
    return {"mean": fmean(known), "std": stdev(known) if len(known) > 1 else None} if known else None


def page(suite: Suite, result: Record, command: str, picture: str) -> str:
    """The suite as Markdown: result and cost of every method, further scores, IoU per class, and the suite's notes."""
    methods, runs, teachers = result["methods"], result["runs"], result["teachers"]
    lines = [f"# {suite.title}", "", f"Written by `{command}` from the runs' `metrics.json`; do not edit.", ""]
    lines += [*_budget(suite, runs), "", *_shared(result), "", *_main_table(suite, methods), ""]
    lines += [f"- {title} failed: {error}" for title, error in result["failures"].items()]
    if absent := [row["method"] for row in methods if not row["seeds"]]:
        lines += [f"- Not run, cells left empty: {', '.join(absent)}."]
    lines += [
        f"- {name} is validated on data of its own, not on the methods': there is no gap to recover."
        for name, teacher in teachers.items()
        if not teacher["same_data"]
    ]
    lines += [*_explanation(suite, result), "", f"![{suite.title}]({picture})"]
    lines += ["", "## Further scores", "", *_scores(methods)]
    columns = {f"{name} (teacher)": teacher["val_iou"] for name, teacher in teachers.items() if teacher["same_data"]}
    columns |= {row["method"]: row["val_iou"] for row in methods if row["seeds"]}
    if columns:
        lines += ["", "## IoU per class", "", *by_class(columns)]
    if pulls := _pulls(methods):
        lines += ["", "## How the losses pull at the encoder", "", *pulls]
    if suite.notes:
        lines += ["", "## Notes", "", *(f"- {note}" for note in suite.notes)]
    if runs:
        lines += ["", f"Trained on {machines(runs)}; teachers on {machines(teachers.values()) or '–'}."]
    return "\n".join(lines) + "\n"


def _budget(suite: Suite, runs: list[Record]) -> list[str]:
    if not runs:
        return []
    run = runs[0]
    size = sizes.text(sizes.read(run["macs_at"]))
    epochs, steps = (_range(run[key] for run in runs) for key in ("epochs", "steps"))
    return [
        f"Every student is {run['network']} ({run['parameters'] / 1e6:.2f} M parameters, {run['macs'] / 1e9:.2f} GMACs "
        f"at {size}) and gets {epochs} epochs ({steps} steps) of {size} crops, {run['precision']}, "
        f"with seed {', '.join(map(str, suite.seeds))}. Scores are those of the best epoch"
        + (", mean ± sample standard deviation over the seeds." if len(suite.seeds) > 1 else ".")
    ]


def _shared(result: Record) -> list[str]:
    """What all runs share, and the declared differences."""
    values = ", ".join(f"{name.rpartition('.')[2]} {json.dumps(value)}" for name, value in result["budget"].items())
    lines = [f"Equal in all runs, but for what is a method's own: {values}; and every other option."]
    differences = [
        f"- **{it['method']} differs** in `{it['option']}`, {json.dumps(it['value'])} instead of "
        f"{json.dumps(it['students'])}: {it['why']}."
        for it in result["differences"]
    ]
    return [*lines, "", *differences] if differences else lines


def _main_table(suite: Suite, methods: list[Record]) -> list[str]:
    headings = ["method", "teacher", "teacher mIoU", "val mIoU", "gap recovered", "step cost"]
    timed = any("student_in_that_time" in row for row in methods)
    if timed:
        headings.insert(4, f"{suite.student.method} in that time")
    added = ("added parameters", "added GMACs", "preparation (s)", "min")
    rows = []
    for row in methods:
        extra = row["training_only"]
        cells = [row["method"], row["teacher"], percent(row["teacher_val_miou"])]
        cells += [
            _percent(row["val_miou"]),
            _percent(row["gap_recovered"], 1),
            _number(row["step_cost_ratio"], "{:.2f}×"),
        ]
        cells += [extra and f"{extra['parameters'] / 1e6:.3f} M", extra and f"{extra['macs'] / 1e9:.2f}"]
        minutes = row["wall_seconds"] and row["wall_seconds"]["mean"] / 60
        if timed:
            alone = row.get("student_in_that_time")
            cells.insert(4, alone and f"{_percent(alone['val_miou'])} ({alone['epochs']} epochs)")
        rows.append([*cells, _number(_mean(row["prepare_seconds"]), "{:.0f}"), _number(minutes, "{:.0f}")])
    return markdown((*headings, *added), rows, texts=2)


def _explanation(suite: Suite, result: Record) -> list[str]:
    goal, student = suite.goal or "teacher", suite.student.method
    text = (
        f"- Gap recovered: (run - {student}) / ({goal} - {student}). Added parameters and GMACs are the "
        "method's own, for training only; the exported student has none of them. Preparation: seconds of a run before "
        "its first step, in which a method may train a part of its own; `min` contains them."
    )
    if not (steps := result["step_cost"]):
        return [text]
    size = sizes.text(sizes.read(steps["crop"]))
    timed = (
        f"- In that time: {student}, trained for so many epochs as take the time of the method's, by the milliseconds "
        "of their steps, the teacher's part included and preparation not."
    )
    return [
        text,
        *([timed] if suite.equal_time else []),
        "- Step cost: a training step over (forward of its teacher + plain student step), medians of "
        f"{steps['steps']} steps in turns in one process, {steps['batch']} crops of {size}, on "
        f"{machines([steps])}. Of a run in several phases, the first one.",
    ]


def _scores(methods: list[Record]) -> list[str]:
    headings = ("method", "pixel accuracy", "high-precision accuracy", "variance of the images' mIoU")
    rows = []
    for row in methods:
        cells = [row["method"], *(_percent(row[key]) for key in ("val_pixel_accuracy", "val_high_precision_accuracy"))]
        cells += [
            _number(_mean(row["val_miou_variance"]), "{:.4f}"),
            row["parameters"] and f"{row['parameters'] / 1e6:.2f} M",
        ]
        rows.append([*cells, row["macs"] and f"{row['macs'] / 1e9:.2f}", percent(row["macs_of_teacher"], 1)])
    return markdown((*headings, "parameters", "GMACs", "of the teacher's GMACs"), rows)


def _pulls(methods: list[Record]) -> list[str]:
    """The gradient of every loss beside the cross-entropy's, see `training.callbacks.gradients`; no lines without."""
    rows = []
    for row in methods:
        means = {name: _mean(value) for name, value in row["gradients"].items()}
        labels = means.pop(f"gradient_norm/{LABELS}", None)
        for name, norm in means.items():
            kind, _, loss = name.partition("/")
            if labels and norm is not None and kind == "gradient_norm":
                cosine = _number(means.get(f"gradient_cosine/{loss}"), "{:.2f}")
                rows.append([row["method"], loss, f"{norm / labels:.2f}×", cosine])
    if not rows:
        return []
    text = "Of the gradient on the encoder, before clipping, means over the run: its norm over that of the labels, "
    table = markdown(("method", "loss", "gradient over the labels'", "cosine with the labels'"), rows, texts=2)
    return [text + "and the cosine between the two.", "", *table]


def _mean(value: dict[str, float] | None) -> float | None:
    return None if value is None else value["mean"]


def _number(value: float | None, form: str) -> str | None:
    return None if value is None else form.format(value)


def _percent(value: dict[str, float] | None, digits: int = 2) -> str | None:
    """`51.76%`, or over several seeds `51.8 ± 0.4%`."""
    if value is None or value["std"] is None:
        return percent(_mean(value), digits)
    return f"{100 * value['mean']:.{digits}f} ± {100 * value['std']:.{digits}f}%"


def _range(values: Iterable[int]) -> str:
    found = sorted(set(values))
    return str(found[0]) if len(found) == 1 else f"{found[0]}–{found[-1]}"
