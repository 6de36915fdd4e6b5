"""The table of a comparison: from the runs' own files, of one budget, and honest about a gap that is not there."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from training.results import compare, page, read_run
from transkd_ros.cli import CommandError

ROOT = Path(__file__).parents[2]


def a_run(name, miou, **changes):
    return {
        "name": name, "method": "labels only", "network": "segformer mit_b0", "teacher": None,
        "val_miou": miou, "val_iou": {"road": 0.9, "pole": 0.1}, "last_val_miou": miou, "epochs": 3, "steps": 30,
        "seed": 1, "wall_seconds": 120, "parameters": 3_700_000, "macs": 10**9, "macs_at": [256, 320],
        "precision": "bf16-mixed", "machine": {"cpu": "some CPU", "cpus": 2}, **changes,
    }  # fmt: skip


def test_the_share_of_the_gap_is_that_of_teacher_and_student():
    distilled = [a_run("half", 0.6), a_run("worse", 0.4)]
    runs = compare(a_run("teacher", 0.7, epochs=9), a_run("student", 0.5), distilled)["runs"]
    assert [run["gap_recovered"] for run in runs[2:]] == [pytest.approx(0.5), pytest.approx(-0.5)]
    assert [run["role"] for run in runs] == ["teacher", "student alone", "distilled", "distilled"]


def test_there_is_no_share_of_a_gap_where_the_teacher_is_no_better():
    compared = compare(a_run("teacher", 0.5), a_run("student", 0.5), [a_run("distilled", 0.6)])
    assert compared["runs"][2]["gap_recovered"] is None
    assert "| – |" in page(compared, "title", "command").splitlines()[8]


@pytest.mark.parametrize("change", [{"epochs": 4}, {"seed": 2}, {"network": "fpn mit_b0"}, {"macs_at": [64, 64]}])
def test_runs_of_another_budget_are_refused(change):
    with pytest.raises(CommandError, match=f"not of one budget: {next(iter(change))}"):
        compare(a_run("teacher", 0.7), a_run("student", 0.5), [a_run("other", 0.6, **change)])


def test_the_command_writes_the_files_from_the_runs(tmp_path):
    for name, miou in (("t", 0.7), ("s", 0.5), ("d", 0.6)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.json").write_text(json.dumps(a_run(name, miou)))
    folders = ["--teacher", tmp_path / "t", "--student", tmp_path / "s", "--runs", tmp_path / "d"]
    script = ROOT / "training" / "results.py"
    subprocess.run([sys.executable, script, *folders, "--output", tmp_path / "table"], check=True, capture_output=True)
    written = json.loads((tmp_path / "table.json").read_text())
    assert [(run["name"], run["val_miou"]) for run in written["runs"]] == [("t", 0.7), ("s", 0.5), ("d", 0.6)]
    text = (tmp_path / "table.md").read_text()
    assert "| d | segformer mit_b0 | labels only | – | 60.00% | 60.00% | 50.0% | 3 | 30 | 1 | 2 |" in text
    assert "| pole | 10.0% | 10.0% | 10.0% |" in text


def test_a_run_that_did_not_end_is_named(tmp_path):
    with pytest.raises(CommandError, match=r"metrics\.json is missing"):
        read_run(tmp_path)
    (tmp_path / "metrics.json").write_text('{"best_val_miou": 0.5}')
    with pytest.raises(CommandError, match="lacks name, method"):
        read_run(tmp_path)


def test_the_committed_comparison_is_what_its_page_shows():
    results = ROOT / "docs" / "results"
    compared = json.loads((results / "camvid.json").read_text())
    text = (results / "camvid.md").read_text()
    assert {run["role"] for run in compared["runs"]} == {"teacher", "student alone", "distilled"}
    for run in compared["runs"]:
        assert f"| {run['name']} |" in text
        assert f"{run['val_miou']:.2%}" in text
