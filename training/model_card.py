"""The model card of a bundle, README.md: what a person wants to know before running it, generated from the manifest."""

from __future__ import annotations

from typing import Any


def model_card(fields: dict[str, Any]) -> str:
    """Markdown from the manifest's fields (see `transkd_ros.model.bundle.Manifest`)."""
    architecture = fields["architecture"]
    height, width = fields["input_size"]
    lines = [
        f"# {fields['name']}",
        "",
        f"{architecture['architecture']} on {architecture['encoder']}, {len(fields['labels'].names)} classes, "
        f"a {fields['role']} model for transkd_ros.",
        "",
        "| | |",
        "|---|---|",
        f"| parameters | {fields['parameters'] / 1e6:.2f} M |",
        f"| multiply-accumulates at {width}×{height} | {fields['macs'] / 1e9:.2f} G |",
        f"| input | {width}×{height} RGB by default; any multiples of {fields['size_divisor']} |",
        f"| recipe | {_recipe(fields)} |",
        f"| taught by | {_teaching(fields.get('teaching') or {})} |",
        f"| made | {fields['created']} |",
        f"| licence | {fields['licence']} |",
        "",
        "## Measured",
        "",
        *_measured(fields["metrics"]),
        *[f"- {name}: {share:.2%} of the pixels have the same class" for name, share in fields["agreement"].items()],
        "",
        "The agreement of a precision is with fp32, on the same frames.",
        "",
        "## Data",
        "",
        fields["data_note"] or "No note on the data was given.",
        "",
    ]
    return "\n".join(lines)


def _measured(metrics: dict[str, Any]) -> list[str]:
    if not metrics:
        return ["Not measured on labelled frames.", ""]
    lines = []
    for split, precisions in metrics.items():
        columns = list(precisions)
        lines += [f"{split}, the bundle run as a vehicle runs it ({precisions[columns[0]]['frames']} frames):", ""]
        lines += [f"| | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
        rows = {"mIoU": "miou", "pixel accuracy": "pixel_accuracy"}
        for title, key in rows.items():
            lines.append(f"| {title} | {' | '.join(f'{precisions[c][key]:.2%}' for c in columns)} |")
        for name in precisions[columns[0]]["iou"]:
            lines.append(f"| {name} | {' | '.join(_percent(precisions[c]['iou'].get(name)) for c in columns)} |")
        lines.append("")
    return lines


def _recipe(fields: dict[str, Any]) -> str:
    recipe = f"`{fields['recipe']}`" if fields["recipe"] else "not stated"
    return recipe if fields["seed"] is None else f"{recipe}, seed {fields['seed']}"


def _teaching(teaching: dict[str, Any]) -> str:
    if not teaching:
        return "labels only"
    teachers = [
        f"`{teacher['source']}`" + (f" ({teacher['miou']:.1%} mIoU)" if "miou" in teacher else "")
        for teacher in teaching["teachers"]
    ]
    return f"{teaching['method']} under {', '.join(teachers)}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"
