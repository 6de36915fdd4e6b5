"""The parts of a Markdown page: tables, IoU per class, percentages, machines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


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
