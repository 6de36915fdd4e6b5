"""The page of a live evaluation: that of an offline one with the section of `templates/live.html.j2`, and its plot."""

from __future__ import annotations

import numpy as np

from transkd_ros.evaluate.live import LiveEvaluation, Recording
from transkd_ros.evaluate.offline_page import draw_line, make_page
from transkd_ros.reports import html

_BARS = 100


def make_live_page(evaluation: LiveEvaluation) -> str:
    """The live evaluation as HTML."""
    plots = {name: plot for name, recording in evaluation.recordings.items() if (plot := _course(recording))}
    return make_page(evaluation, "live.html.j2", live=evaluation.live(), courses=plots)


def _course(recording: Recording) -> str:
    """Latency over the stamps of the frames as SVG, with bars where frames were never answered; "" without a mask."""
    latencies = recording.latencies()
    if not latencies:
        return ""
    stamps = recording.stamps
    start = min(stamps)
    figure, axes = html.axes(11.2, 2.4)
    drops = axes.twinx()
    unanswered = [(stamp - start) / 1e9 for stamp in stamps - recording.answered.keys()]
    seconds = (max(stamps) - start) / 1e9 or 1.0
    drops.hist(unanswered, min(_BARS, len(stamps)), range=(0, seconds), color=html.SERIES[1], alpha=0.3)
    drops.set_ylabel("frames never answered", color=html.SERIES[1])
    drops.tick_params(color=html.SERIES[1], labelcolor=html.SERIES[1])
    drops.spines[:].set_visible(False)
    drops.yaxis.get_major_locator().set_params(integer=True)
    drops.grid(False)
    answered = sorted(latencies)
    times = np.array([(stamp - start) / 1e9 for stamp in answered])
    milliseconds = np.array([1e3 * latencies[stamp] for stamp in answered])
    draw_line(axes, times, milliseconds, html.SERIES[0], "latency")
    axes.set_zorder(1)  # the line in front of the bars
    axes.patch.set_visible(False)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("frame to mask (ms)")
    axes.set_xlabel("time (s)")
    return html.figure(figure)
