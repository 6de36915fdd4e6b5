"""What a comparison leaves: comparison.json for programs, comparison.html for people."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transkd_ros.compare.agreement import Comparison
from transkd_ros.compare.pairing import STUDENT, TEACHER
from transkd_ros.compare.pictures import side_by_side
from transkd_ros.files import write_atomic
from transkd_ros.frames import Frame
from transkd_ros.model.labels import LabelTable
from transkd_ros.reports import html

JSON, HTML = "comparison.json", "comparison.html"


@dataclass(frozen=True)
class Subject:
    """What is compared: the names of the two models, and their class tables, which may differ in the order."""

    teacher: str
    student: str
    labels: LabelTable
    student_labels: LabelTable | None = None  # the same


@dataclass
class View:
    """One camera of a comparison.

    worst_frame: what the camera saw when the two agreed least, if it was heard. broken: unusable frames by cause.
    """

    comparison: Comparison
    worst_frame: Frame | None = None
    broken: Counter[str] = field(default_factory=Counter)


def write(folder: Path, subject: Subject, views: Mapping[str, View], source: str, now: float | None = None) -> None:
    """Write both files, the JSON first. `source` says where the frames came from, `now` is as in Comparison.summary.

    Raises OSError.
    """
    summaries = {
        camera: view.comparison.summary(now) | {"broken frames": dict(view.broken)} for camera, view in views.items()
    }
    result = {
        "source": source,
        "teacher": subject.teacher,
        "student": subject.student,
        "classes": list(subject.labels.names),
        "cameras": {
            camera: summary | {"confusion": views[camera].comparison.agreement.total.matrix.tolist()}
            for camera, summary in summaries.items()
        },
    }
    text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(folder / JSON, text + "\n")
    drawn = {camera: _drawings(view) for camera, view in views.items()}
    page = html.render(
        "compare.html.j2", subject=subject, source=source, summaries=summaries, views=views, drawn=drawn,
        sides=(TEACHER, STUDENT),
    )  # fmt: skip
    write_atomic(folder / HTML, page)


def _drawings(view: View) -> dict[str, str | None]:
    """{"course": SVG, "worst": data URI} of a camera, None where there was no pair."""
    comparison = view.comparison
    if comparison.worst is None:
        return {"course": None, "worst": None}
    picture = side_by_side(comparison.labels, comparison.worst, view.worst_frame)
    return {"course": _course(comparison), "worst": html.picture(picture)}


def _course(comparison: Comparison) -> str:
    """Agreement over the pairs, as SVG."""
    figure, axes = html.axes(10, 2.6)
    numbers = [moment.pair for moment in comparison.course.moments]
    for colour, name in zip(html.SERIES, ("pixel_accuracy", "miou"), strict=False):
        values: list[Any] = [100 * getattr(moment, name) for moment in comparison.course.moments]
        axes.plot(numbers, values, color=colour, linewidth=1, marker="." if len(numbers) < 40 else "")
    axes.legend(["pixel accuracy", "mIoU"], loc="lower right", ncols=2)
    axes.set(xlabel="pair", ylabel="agreement (%)", ylim=(0, 101))
    return html.figure(figure)
