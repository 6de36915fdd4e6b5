"""What a record of `make benchmark` (benchmark.json) says, as the Markdown that the documentation shows of it.

`docs/reference.py` puts it into the pages, so that they quote what was measured and nothing else.
"""

from __future__ import annotations

from typing import Any

Record = dict[str, Any]


def targets(record: Record) -> list[str]:
    """On what it was measured, and a table of all targets."""
    made, here = record["model"], record["machine"]
    minutes = sum(values.get("seconds", 0) for values in record["measurements"].values()) / 60
    lasted = f", in {minutes:.0f} minutes" if minutes else ""
    lines = [
        f"Measured on {here['cpu']}, {here['cpus']} CPUs, {record['date'][:10]}{lasted}; model `{made['name']}`.",
        "",
        "| | measured | target | |",
        "|---|---:|---:|---|",
    ]
    for name, values in record["measurements"].items():
        for target in values.get("targets", ()):
            limit = f"{target['sense']} {short(target['limit'])}"
            verdict = "met" if target["met"] else "missed"
            measured = f"{short(target['value'])} {target['unit']}"
            lines.append(f"| {target['name']} ({name}) | {measured} | {limit} | {verdict} |")
        if "skipped" in values:
            lines.append(f"| {name} | skipped: {values['skipped']} | | |")
    return lines


def speeds(record: Record) -> list[str]:
    """Tables of what was timed against something: frames to masks against the naive way, graphs against the first."""
    rate, graphs = (record["measurements"].get(name, {}) for name in ("naive", "baseline"))
    lines: list[str] = []
    if "ms" in rate:
        height, width = rate["size"]
        lines += [f"| a {width}×{height} frame to its mask | ms | × naive | same class |", "|---|---:|---:|---:|"]
        for name, ms in rate["ms"].items():
            ratio, same = (rate[key].get(name) for key in ("times_naive", "agreement_percent"))
            compared = f"{ratio:.1f} | {same:.2f} %" if ratio else "| "
            lines.append(f"| {name} | {ms:.1f} | {compared} |")
    if "ms" in graphs:
        height, width = graphs["input_size"]
        first = max(graphs["ms"], key=lambda name: name.startswith("first"))
        lines += ["", f"| graph at {width}×{height} | ms | shortest | × the first |", "|---|---:|---:|---:|"]
        lines += [
            f"| {name} | {ms:.1f} | {graphs['shortest_ms'][name]:.1f} | {ms / graphs['ms'][first]:.2f} |"
            for name, ms in sorted(graphs["ms"].items(), key=lambda item: -item[1])
        ]
    return lines


def sentence(record: Record) -> list[str]:
    """The record in short."""
    rate, memory = record["measurements"]["naive"], record["measurements"]["memory"]
    height, width = rate["size"]
    ratios = rate["times_naive"]
    best = max(ratios, key=lambda name: ratios[name])
    cores, resident = record["machine"]["cpus"], memory["resident_mb"]["end"]["now"]
    return [
        f"A {width}×{height} frame becomes a mask in {short(rate['ms'][best])} ms on {cores} cores of a server CPU "
        f"({best}), at {ratios[best]:.0f} times the rate of eager torch in fp32;",
        f"the node's process takes {resident:.0f} MB.",
    ]


def short(value: float) -> str:
    """Three digits or so."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
