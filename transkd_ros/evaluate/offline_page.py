"""The page of an evaluation: what `templates/evaluate.html.j2` shows, put together, and its plots."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from transkd_ros.evaluate.result import Evaluation, ModelRun
from transkd_ros.evaluate.scoring import PICTURES, FrameScore, Picture
from transkd_ros.model.bundle import MODEL_ONNX
from transkd_ros.reports import html
from transkd_ros.reports.machine import machine, versions

_POINTS = 600  # of a line: a plot has no more pixels; of more frames it shows mean and range
_ORDER = ("frame", "truth", "prediction", "errors")


def make_page(evaluation: Evaluation, template: str = "evaluate.html.j2", **more: Any) -> str:
    """The evaluation as HTML; `more` are values for what a template of its own adds to the page."""
    models = evaluation.models
    return html.render(
        template,
        evaluation=evaluation,
        models=[_model(model) for model in models],
        classes=_classes(models),
        colors=dict(zip(models[0].labels.names, models[0].labels.colors, strict=True)),
        timelines=[_timeline(models, camera) for camera in models[0].scores],
        latency_plot=_latency_plot(models),
        side_by_side=_side_by_side(models),
        machine=machine(),
        versions=versions(),
        **more,
    )


def _model(model: ModelRun) -> dict[str, Any]:
    metrics = model.metrics
    worst = sorted(_pictures(model, "worst"), key=lambda named: named[1].score.miou)[:PICTURES]
    return {
        "name": model.name,
        "details": model.details,
        "facts": _facts(model.details),
        "metrics": metrics.to_json(),
        "matrix": metrics.confusion.matrix.tolist() if metrics.labelled else None,
        "frames": model.frames,
        "cameras": {camera: score.to_json() for camera, score in model.scores.items()},
        "timings": model.timings(),
        "worst": [_row(*named) for named in worst],
    }


def _facts(details: dict[str, Any]) -> dict[str, str]:
    bundle, size = details["bundle"], details["input_size"]
    return {
        "bundle": f"{bundle['name']}, {bundle['role']}, {bundle['parameters'] / 1e6:.2f} M parameters",
        "network input": f"{size['width']}x{size['height']}",
        "engine": details["engine"],
        "SHA-256 of model.onnx": bundle["files"][MODEL_ONNX],
    }


def _classes(models: Sequence[ModelRun]) -> list[dict[str, Any]]:
    """A class a row, with its share of the labelled pixels and the scores of every model; [] without labels."""
    metrics = [model.metrics for model in models]
    pixels = metrics[0].confusion.matrix.sum(axis=1)
    if not pixels.any():
        return []
    scores = [(m.iou().tolist(), m.boundary_f1().tolist()) for m in metrics]
    return [
        {
            "name": name,
            "share": pixels[i] / pixels.sum(),
            "scores": [{"iou": iou[i], "boundary_f1": f1[i]} for iou, f1 in scores],
        }
        for i, name in enumerate(models[0].labels.names)
    ]


# ---------------------------------------------------------------------------------------------- pictures


def _pictures(model: ModelRun, which: str) -> list[tuple[str, Picture]]:
    return [(camera, picture) for camera, score in model.scores.items() for picture in getattr(score, which)]


def _row(camera: str, picture: Picture) -> dict[str, Any]:
    """A caption and [(label, data URI)]."""
    caption = _caption(camera, picture)
    if not np.isnan(picture.score.miou):
        caption += f", mIoU {100 * picture.score.miou:.1f} %"
    images = [(name, html.jpeg_uri(picture.images[name])) for name in _ORDER if name in picture.images]
    return {"caption": caption, "pictures": images}


def _caption(camera: str, picture: Picture) -> str:
    return f"{camera} at {picture.score.stamp_ns / 1e9:.3f} s"


def _side_by_side(models: Sequence[ModelRun]) -> list[dict[str, Any]]:
    """Frames spread over the drive, with the masks of all models beside each other."""
    of_models = [{(camera, p.score.stamp_ns): p for camera, p in _pictures(model, "samples")} for model in models]
    common = [key for key in of_models[0] if all(key in pictures for pictures in of_models)]
    chosen = sorted({int(i) for i in np.linspace(0, len(common) - 1, min(len(common), PICTURES)).round()})
    rows = []
    for key in (common[i] for i in chosen):
        pictures = [pictures[key] for pictures in of_models]
        shared = [(name, pictures[0].images[name]) for name in ("frame", "truth") if name in pictures[0].images]
        masks = [(_named(m, p), p.images["prediction"]) for m, p in zip(models, pictures, strict=True)]
        images = [(label, html.jpeg_uri(data)) for label, data in (*shared, *masks)]
        rows.append({"caption": _caption(key[0], pictures[0]), "pictures": images})
    return rows


def _named(model: ModelRun, picture: Picture) -> str:
    miou = picture.score.miou
    return model.name if np.isnan(miou) else f"{model.name}, mIoU {100 * miou:.1f} %"


# ------------------------------------------------------------------------------------------------- plots


def _timeline(models: Sequence[ModelRun], camera: str) -> dict[str, str]:
    """mIoU frame by frame, a line per model, or the flicker where there are no labels."""
    labelled = any(model.metrics.labelled for model in models)
    figure, axes = html.axes(11.2, 2.2)
    for model, color in zip(models, itertools.cycle(html.SERIES)):
        if camera in model.scores:
            x, label = _times(model.scores[camera].frames)
            values = [100 * (score.miou if labelled else score.flicker) for score in model.scores[camera].frames]
            draw_line(axes, x, np.array(values), color, model.name)
            axes.set_xlabel(label)
    axes.set_ylabel("mIoU (%)" if labelled else "flicker (%)")
    axes.set_ylim(bottom=0)
    axes.margins(x=0.01)
    axes.legend(loc="upper left", bbox_to_anchor=(0, 1.2), ncol=4, borderaxespad=0, frameon=False, fontsize=9)
    return {"camera": camera, "plot": html.figure(figure)}


def _times(frames: Sequence[FrameScore]) -> tuple[np.ndarray, str]:
    """Seconds since the first frame, or frame numbers where the stamps jump back; and what to call them."""
    stamps = np.array([score.stamp_ns for score in frames], np.int64)
    if (np.diff(stamps) < 0).any():
        return np.arange(len(stamps)), "frame"
    return (stamps - stamps[:1]) / 1e9, "time (s)"


def draw_line(axes: Any, x: np.ndarray, y: np.ndarray, color: str, label: str) -> None:
    """`y` over `x`, without what is nan; of many points the mean, in the band of their range."""
    known = ~np.isnan(y)
    x, y = x[known], y[known]
    if len(x) <= _POINTS:
        axes.plot(x, y, color=color, linewidth=1.2, label=label, marker="." if len(x) < 150 else None, markersize=4)
        return
    parts = np.array_split(np.arange(len(x)), _POINTS)
    at = np.array([x[part].mean() for part in parts])
    axes.plot(at, [y[part].mean() for part in parts], color=color, linewidth=1.2, label=label)
    lowest, highest = ([pick(y[part]) for part in parts] for pick in (np.min, np.max))
    axes.fill_between(at, lowest, highest, color=color, alpha=0.18, linewidth=0)


def _latency_plot(models: Sequence[ModelRun]) -> str | None:
    """Histogram of the time from message to mask; None where no model has any."""
    times = {model.name: 1e3 * seconds["total"] for model in models if "total" in (seconds := model.latencies.seconds)}
    if not times:
        return None
    # The slowest in a thousand may be ten times slower and would squeeze all others into one bar: they join the last.
    low, high = min(v.min() for v in times.values()), max(np.percentile(v, 99.5) for v in times.values())
    bins = np.linspace(low, max(high, low + 1e-3), 60)
    figure, axes = html.axes(6.4, 2.6)
    for (name, values), color in zip(times.items(), itertools.cycle(html.SERIES)):
        axes.hist(np.minimum(values, bins[-1]), bins, histtype="stepfilled", color=color, alpha=0.35)
        axes.hist(np.minimum(values, bins[-1]), bins, histtype="step", color=color, label=name)
    axes.set_xlabel("message to mask (ms); the last bar holds all slower ones")
    axes.set_ylabel("frames")
    axes.legend(frameon=False, fontsize=9)
    return html.figure(figure)
