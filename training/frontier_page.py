"""What `training.frontier` measured, for a reader: the points that nothing beats, a Markdown page, and a plot."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import matplotlib

matplotlib.use("Agg")  # a picture in a file needs no display

from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from training.suite.tables import markdown, percent
from transkd_ros.reports.html import png

MARKERS = {"fp32": "o", "bf16": "s", "int8": "D", "fp16": "^"}
TITLE = "Time of a frame against accuracy"
Point = dict[str, Any]


def timed(record: dict[str, Any]) -> list[Point]:
    """The points with a time, fastest first."""
    return sorted((point for point in record["points"] if point["ms"] is not None), key=lambda point: point["ms"])


def front(points: Iterable[Point]) -> list[Point]:
    """Of timed points those that no other beats: none is at least as fast and as good, and better in one of both."""
    kept: list[Point] = []
    for point in sorted(points, key=lambda point: (point["ms"], -point["miou"])):
        if not kept or point["miou"] > kept[-1]["miou"]:
            kept.append(point)
    return kept


def page(record: dict[str, Any], command: str, image: str) -> str:
    """The points as Markdown: what was measured where, the front first, the plot, then all."""
    points = timed(record)
    best = front(points)
    timing, accuracy = record["timing"], record["accuracy"]
    engine, frames = timing["engine"], points[0]["frames"]
    lines = [f"# {TITLE}", "", f"Written by `{command}`; do not edit.", ""]
    lines += [
        f"Time: the shortest of {timing['inferences']} inferences by {engine} on {_where(timing)}, all points by turns "
        f"in one process, and the median of the same. Accuracy: mIoU on the {frames} frames of {record['frames']}, "
        "each resized to the network's input and its mask enlarged to the frame, by OpenVINO on "
        f"{_where(accuracy)}. A row is a bundle at an input size and in a precision; its network was trained by its "
        "recipe, at whatever size that says. In bold: no other point is as fast and as good.",
        "",
        f"![{TITLE}]({image})",
        "",
        "## The front",
        "",
        *_table(best, []),
        "",
        "## All points",
        "",
        *_table(points, best),
    ]
    untimed = [point for point in record["points"] if point["ms"] is None]
    lines += [f"- {_name(point)}: not timed." for point in untimed]
    lines += ["", "## Bundles", "", *_bundles(points)]
    return "\n".join(lines) + "\n"


def _where(about: dict[str, Any]) -> str:
    here, openvino = about["machine"], about["versions"].get("openvino", "–")
    return f"{here['cpu']}, {here['cpus']} CPUs (OpenVINO {openvino}, {about['date'][:10]})"


def _name(point: Point) -> str:
    return f"{point['bundle']} {point['size'][1]}×{point['size'][0]} {point['precision']}"


def _table(points: list[Point], bold: list[Point]) -> list[str]:
    rows = []
    for point in points:
        macs = None if point["macs"] is None else f"{point['macs'] / 1e9:.2f}"
        cells = [point["bundle"], f"{point['size'][1]}×{point['size'][0]}", point["precision"], f"{point['ms']:.1f}"]
        cells += [f"{point['median_ms']:.1f}", percent(point["miou"]), percent(point["pixel_accuracy"]), macs]
        rows.append([f"**{cell}**" for cell in cells] if point in bold else cells)
    return markdown(("bundle", "input", "precision", "ms", "median", "mIoU", "pixel accuracy", "GMACs"), rows, texts=3)


def _bundles(points: list[Point]) -> list[str]:
    rows: dict[str, list[str]] = {}
    for point in points:
        parameters = f"{point['parameters'] / 1e6:.2f} M"
        cells = [point["bundle"], point["network"], point["recipe"], parameters, "–", "–"]
        row = rows.setdefault(point["bundle"], cells)
        row[5 if point["precision"] == "int8" else 4] = str(point["megabytes"])
    return markdown(("bundle", "network", "recipe", "parameters", "graph (MB)", "in int8"), rows.values(), texts=3)


def picture(record: dict[str, Any]) -> bytes:
    """A PNG: a colour for each bundle, a marker for each precision, a line over the sizes, rings around the front."""
    points = timed(record)
    names = list(dict.fromkeys(point["bundle"] for point in record["points"]))
    colours = dict(zip(names, colormaps["tab10"].colors, strict=False))  # type: ignore[attr-defined]
    figure = Figure(figsize=(9, 5.5), dpi=110, layout="constrained")
    axes = figure.subplots()
    for name, precision in dict.fromkeys((point["bundle"], point["precision"]) for point in points):
        line = [point for point in points if (point["bundle"], point["precision"]) == (name, precision)]
        line.sort(key=lambda point: point["size"])
        across = ([point["ms"] for point in line], [100 * point["miou"] for point in line])
        style = {"color": colours.get(name, "0.5"), "marker": MARKERS.get(precision, "x"), "markersize": 5}
        axes.plot(*across, linewidth=1, alpha=0.8, **style)  # type: ignore[arg-type]
    for point in front(points):
        at = (point["ms"], 100 * point["miou"])
        axes.plot(*at, marker="o", markersize=13, markerfacecolor="none", color="0.2", linestyle="")
        above = 9 if point["precision"] == "int8" else -18  # the same size in another precision is near
        axes.annotate(f"{point['size'][1]}×{point['size'][0]}", at, (0, above), textcoords="offset points",
                      ha="center", fontsize="small")  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.set_xlabel(f"ms of a frame ({record['timing']['engine']}, {record['timing']['machine']['cpu']})")
    axes.set_ylabel(f"mIoU on {record['frames']} (%)")
    axes.set_title(TITLE)
    axes.grid(True, which="both", alpha=0.25)
    used = dict.fromkeys(point["precision"] for point in points)
    marks: list[Any] = [Line2D([], [], color=colours.get(name, "0.5"), label=name) for name in names]
    marks += [Line2D([], [], color="0.4", marker=MARKERS.get(name, "x"), linestyle="", label=name) for name in used]
    figure.legend(handles=marks, fontsize="small", loc="outside right upper", frameon=False)
    return png(figure)
