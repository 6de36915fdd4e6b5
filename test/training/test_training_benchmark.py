"""The benchmark of the training wing: whether it works and says what it measured, not how fast."""

import json
import sys

import pytest

torch = pytest.importorskip("torch", reason="the training wing needs torch")

from training import benchmark  # noqa: E402

pytestmark = [pytest.mark.training, pytest.mark.slow]


def test_steps_and_memory_are_measured_and_written(tmp_path, monkeypatch):
    output = tmp_path / "benchmark.json"
    arguments = ["--teacher", "mit_b0", "--size", "64x64", "--batch", "1", "--steps", "1", "--only", "step", "memory"]
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments, "--output", str(output)])
    benchmark.main()
    written = json.loads(output.read_text())
    step, memory = (written["measurements"][name] for name in ("step", "memory"))
    parts = step["ms"]["teacher forward"] + step["ms"]["student step"]
    assert step["ratio"]["TransKD-base"] == pytest.approx(step["ms"]["TransKD-base"] / parts)
    assert {target["limit"] for target in step["targets"] + memory["targets"]} == {1.15, 1.25}
    assert min(memory["MB"].values()) > 0
    assert written["settings"]["size"] == [64, 64]


@pytest.mark.slow
def test_pooling_bounds_the_memory_of_the_affinity_loss():
    settings = benchmark.Settings("mit_b2", "mit_b0", (64, 64), batch=1, steps=1)
    added = benchmark.measure_affinity(settings).values["MB"]
    matrix = 4 * 2048**2 / 1e6
    assert added["unpooled"] > 2 * matrix  # of the student and of the teacher
    assert 0 < added["pooled"] < added["unpooled"] / 2
