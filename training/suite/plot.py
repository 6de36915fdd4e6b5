"""The picture of a suite: a row per method; val mIoU between student and teachers, training cost, IoU per class."""

from __future__ import annotations

from typing import Any

import matplotlib

matplotlib.use("Agg")  # a picture in a file needs no display

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from transkd_ros.reports.html import png

GREY = "0.6"
BAR: Any = {"height": 0.7, "alpha": 0.55}


def picture(result: dict[str, Any], title: str) -> bytes:
    """A PNG of what `training.suite.page.summarise` gives. A method that was not run has an empty row."""
    rows = result["methods"]
    classes = list(dict.fromkeys(name for row in rows for name in row["val_iou"]))
    colours = dict(zip(result["teachers"], colormaps["tab10"].colors, strict=False))  # type: ignore[attr-defined]
    height = 1.6 + 0.42 * len(rows)
    figure = Figure(figsize=(7.5 + 0.5 * len(classes), height), dpi=110, layout="constrained")
    score, cost, by_class = figure.subplots(1, 3, sharey=True, width_ratios=[3, 2, max(1, 0.5 * len(classes))])
    figure.suptitle(title)
    shades = [colours.get(row["teacher"], GREY) for row in rows]
    _scores(score, result, shades, colours)
    _costs(cost, rows, shades)
    _classes(by_class, rows, classes)
    score.set_yticks(range(len(rows)), [row["method"] for row in rows])
    score.set_ylim(len(rows) - 0.5, -0.5)  # the first method on top
    return png(figure)


def _scores(axes: Axes, result: dict[str, Any], shades: list[Any], colours: dict[str, Any]) -> None:
    axes.set_title("val mIoU (%), share of the gap recovered", fontsize="medium")
    for index, row in enumerate(result["methods"]):
        if not (value := row["val_miou"]):
            continue
        axes.barh(index, 100 * value["mean"], xerr=100 * (value["std"] or 0), color=shades[index], **BAR)
        gap = row["gap_recovered"]
        text = f"{100 * value['mean']:.1f}" + (f"  ({gap['mean']:.0%})" if gap else "")
        axes.text(1, index, text, va="center", fontsize="small")
    if student := result["methods"][0]["val_miou"]:
        axes.axvline(100 * student["mean"], color=GREY, linestyle=":", zorder=0)
    above = {name: teacher for name, teacher in result["teachers"].items() if teacher["same_data"]}
    for name, teacher in above.items():
        axes.axvline(100 * teacher["val_miou"], color=colours[name], linestyle="--", label=f"teacher {name}", zorder=0)
    if above:
        axes.figure.legend(loc="outside lower left", ncols=4, fontsize="small", frameon=False)


def _costs(axes: Axes, rows: list[dict[str, Any]], shades: list[Any]) -> None:
    axes.set_title("step cost (×), added GMACs", fontsize="medium")
    for index, row in enumerate(rows):
        if (ratio := row["step_cost_ratio"]) is None:
            continue
        axes.barh(index, ratio, color=shades[index], **BAR)
        added = row["training_only"]
        text = f"{ratio:.2f}" + (f"  (+{added['macs'] / 1e9:.2f})" if added else "")
        axes.text(0.03, index, text, va="center", fontsize="small")
    axes.axvline(1, color=GREY, linestyle=":", zorder=0)


def _classes(axes: Axes, rows: list[dict[str, Any]], classes: list[str]) -> None:
    axes.set_title("IoU per class (%)", fontsize="medium")
    axes.tick_params(left=False)
    iou = np.array([[100 * row["val_iou"].get(name, np.nan) for name in classes] for row in rows])
    if not classes:
        return
    axes.imshow(iou, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    axes.set_xticks(range(len(classes)), classes, rotation=40, ha="right", fontsize="small")
    for (y, x), value in np.ndenumerate(iou):
        if not np.isnan(value):
            axes.text(x, y, f"{value:.0f}", ha="center", va="center", fontsize="x-small",
                      color="black" if value > 60 else "white")  # fmt: skip
