"""The page of an adaptation: what `templates/adapt.html.j2` shows, put together, and its plot."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from training.adaptation.held_out import Standing
from training.adaptation.opinion import FrameOpinion, Opinion, teacher_mask
from training.data.extraction import ExtractedFrame, Extraction
from training.soft_labels import SoftLabels
from transkd_ros.bags.image_folder import read_image
from transkd_ros.reports import html
from transkd_ros.reports.machine import machine, versions

_DISPUTED = 12  # rows of the list


@dataclass(frozen=True)
class Story:
    """All that the page tells. `counts` is frames by what became of them, `cost` name and value, `commands` lines."""

    name: str
    extractions: Sequence[Extraction]
    counts: dict[str, int]
    opinion: Opinion
    store: SoftLabels
    trust: float
    held_out: Sequence[ExtractedFrame]
    standings: Sequence[Standing]
    labelling: str | None
    cost: dict[str, str]
    commands: Sequence[str]


def make_page(story: Story) -> str:
    labels = story.store.labels
    colors = dict(zip(labels.names, labels.colors, strict=True))
    opinion = story.opinion
    classes = [
        {"name": name, "share": pixels / max(1, opinion.pixels.sum()), "kept": trusted / pixels if pixels else None}
        for name, pixels, trusted in zip(labels.names, opinion.pixels.tolist(), opinion.trusted.tolist(), strict=True)
    ]
    return html.render(
        "adapt.html.j2",
        story=story,
        teachers=story.store.annotators.teachers,
        classes=classes,
        colors=colors,
        confidence_plot=_confidence_plot(opinion.frames),
        standings=[(standing.name, standing.to_json(labels)) for standing in story.standings],
        disputed=[_row(frame) for frame in opinion.most_disputed(_DISPUTED)],
        pictures=_pictures(story),
        machine=machine(),
        versions=versions(),
    )


def _row(opinion: FrameOpinion) -> dict[str, Any]:
    frame = opinion.frame
    return {
        "source": frame.source,
        "topic": frame.topic or "–",
        "at": frame.at,
        "file": frame.path.name,
        "disagreement": opinion.disagreement,
        "confidence": opinion.confidence,
    }


def _confidence_plot(frames: Sequence[FrameOpinion]) -> str:
    """Mean confidence of the teachers over each drive."""
    figure, axes = html.axes(9.6, 2.4)
    drives = groupby(sorted(frames, key=lambda it: it.frame.source), lambda it: it.frame.source)
    for (source, group), color in zip(drives, itertools.cycle(html.SERIES)):
        ordered = sorted(group, key=lambda it: it.frame.at)
        at, confidence = [it.frame.at for it in ordered], [it.confidence for it in ordered]
        axes.plot(at, confidence, color=color, linewidth=1.2, marker=".", markersize=4, label=source)
    axes.set_xlabel("part of the drive")
    axes.set_ylabel("confidence")
    axes.legend(frameon=False, fontsize=8)
    return html.figure(figure)


def _pictures(story: Story) -> list[dict[str, Any]]:
    """Frames of the held-out stretch with the masks of teachers and students."""
    rows = []
    for index in sorted(story.standings[0].masks):
        frame = story.held_out[index]
        rgb = np.ascontiguousarray(read_image(frame.path)[..., ::-1])
        masks = {"teacher": teacher_mask(story.store, frame, (rgb.shape[0], rgb.shape[1]))}
        masks |= {standing.name: standing.masks[index] for standing in story.standings}
        shown = {"frame": rgb} | {n: story.store.labels.overlay(rgb, mask, 0.6) for n, mask in masks.items()}
        agreement = ", ".join(f"{s.name} {100 * s.by_frame[index]:.1f} %" for s in story.standings)
        caption = f"{frame.source} {frame.topic}, {100 * frame.at:.0f} % of the drive; agreement: {agreement}"
        rows.append({"caption": caption, "pictures": [(n, html.picture(image)) for n, image in shown.items()]})
    return rows
