"""Parts that were evaluated apart add up to exactly what one run over all of them says."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from test_evaluate_command import write_bag

from transkd_ros.cli import CommandError
from transkd_ros.evaluate import __main__ as command
from transkd_ros.timing import histogram, percentiles_of


def evaluate(monkeypatch, output, *words):
    monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, words), "--output", str(output)])
    assert command.main() == 0
    return json.loads((output / "metrics.json").read_text())


def spoilt(index, message, label):
    """Without the labels of every third frame, and wrong about a part of the others."""
    if index % 3 == 2:
        return message, None
    label.data = np.where(np.arange(label.data.size) % 7 == 0, 1, label.data).astype(np.uint8)
    return message, label


@pytest.fixture
def bags(tmp_path):
    """Two drives: one with two cameras, the other shorter and with other labels."""
    monday = write_bag(tmp_path / "monday", 5, cameras=("/front", "/rear"))
    return monday, write_bag(tmp_path / "tuesday", 4, spoil=spoilt)


def test_merged_parts_equal_one_run_over_all(bags, bundle_path, tmp_path, monkeypatch):
    parts = []
    for bag in bags:
        evaluate(monkeypatch, tmp_path / f"of_{bag.name}", "--bag", bag, "--model", bundle_path)
        parts.append(tmp_path / f"of_{bag.name}" / "metrics.json")
    whole = evaluate(monkeypatch, tmp_path / "whole", "--bag", bags[0], "--bag", bags[1], "--model", bundle_path)
    merged = evaluate(monkeypatch, tmp_path / "merged", "--merge", *parts)
    assert set(merged["models"]["tiny"]["cameras"]) == {"/monday/front", "/monday/rear", "/tuesday/front"}
    for key in ("models", "classes", "ignore_id", "partial"):
        assert merged[key] == whole[key], key
    assert merged["models"]["tiny"]["total"]["miou"] < 1
    times, of_whole = (result["timings"]["models"]["tiny"] for result in (merged, whole))
    assert {stage: values["count"] for stage, values in times["latency_ms"].items()} == {
        stage: values["count"] for stage, values in of_whole["latency_ms"].items()
    }
    again = evaluate(monkeypatch, tmp_path / "again", "--merge", tmp_path / "merged" / "metrics.json")
    assert again["models"] == merged["models"]  # what was merged can be merged


def test_what_would_count_twice_or_does_not_belong_together_is_one_line(bags, bundle_path, tmp_path, monkeypatch):
    evaluate(monkeypatch, tmp_path / "a", "--bag", bags[1], "--model", bundle_path)
    path = tmp_path / "a" / "metrics.json"
    with pytest.raises(CommandError, match=r"both hold /front of .*tuesday: it would count twice"):
        evaluate(monkeypatch, tmp_path / "b", "--merge", path, path)
    content = json.loads(path.read_text())
    other = tmp_path / "other.json"
    other.write_text(json.dumps(content | {"classes": ["red", "green", "grey"]}))
    with pytest.raises(CommandError, match=r"other\.json has other classes than"):
        evaluate(monkeypatch, tmp_path / "b", "--merge", path, other)
    other.write_text("{}")
    with pytest.raises(CommandError, match=r"other\.json is not a metrics\.json"):
        evaluate(monkeypatch, tmp_path / "b", "--merge", other)
    with pytest.raises(CommandError, match="same bag twice"):
        evaluate(monkeypatch, tmp_path / "b", "--bag", bags[1], "--bag", bags[1], "--model", bundle_path)
    assert not (tmp_path / "b" / "metrics.json").exists()


def test_histograms_of_parts_add_up_and_tell_percentiles_to_one_per_cent():
    seconds = np.random.default_rng(1).lognormal(-4, 1, 3000)
    whole = histogram(seconds)
    summed: dict[str, int] = {}
    for part in np.array_split(seconds, 7):
        for number, count in histogram(part).items():
            summed[number] = summed.get(number, 0) + count
    assert summed == whole and sum(whole.values()) == 3000
    for percent, found in zip((50, 95, 99), percentiles_of(whole, (50, 95, 99)), strict=True):
        assert found == pytest.approx(1e3 * np.percentile(seconds, percent), rel=0.015)


def test_a_duration_of_nothing_has_a_bin():
    assert sum(histogram([0.0, 1.0]).values()) == 2
