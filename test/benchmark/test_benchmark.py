"""The benchmark measures what it says, judges its targets rightly, and leaves tables and one JSON file."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from transkd_ros.benchmark import baseline, engines, rate, record, row
from transkd_ros.benchmark.__main__ import MEASUREMENTS
from transkd_ros.benchmark.freshness import age_target
from transkd_ros.benchmark.measurement import TURN, Settings, Skipped, Target, frame_messages, take_turns
from transkd_ros.benchmark.memory import growth_target, resident
from transkd_ros.model.bundle import Bundle, load_bundle
from transkd_ros.model.engines import Candidate
from transkd_ros.model.tuning import Timing

pytestmark = pytest.mark.slow
MODELS = Path(__file__).resolve().parents[2] / "models"
ENVIRONMENT = os.environ | {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "transkd_ros.benchmark", *map(str, arguments)]


def benchmark(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, env=ENVIRONMENT, check=False)


# ---- targets -------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("sense", "below", "equal", "above"),
    [("≥", False, True, True), ("≤", True, True, False), ("<", True, False, False)],
)
def test_a_target_is_met_on_the_right_side_of_its_limit(sense, below, equal, above):
    assert [Target("x", value, sense, 2.0, "ms").met for value in (1.9, 2.0, 2.1)] == [below, equal, above]


def test_int8_has_to_be_forty_times_faster_than_naive_bf16_ten_times_and_fp32_six_times():
    assert [rate.rate_target("int8", ratio).met for ratio in (39.9, 40.0)] == [False, True]
    assert [rate.rate_target("bf16", ratio).met for ratio in (9.9, 10.0)] == [False, True]
    assert [rate.rate_target("fp32", ratio).met for ratio in (5.9, 6.0)] == [False, True]


def test_a_frame_may_be_older_than_the_engine_takes_by_two_camera_intervals():
    assert age_target(0.0, engine=50.0).limit == pytest.approx(1.15 * 50 + 2 * 1000 / 30)


def test_memory_may_shrink_but_not_grow_by_two_percent():
    assert [growth_target(200.0, after).met for after in (150.0, 203.9, 204.1)] == [True, True, False]


def test_the_default_model_takes_half_of_the_first_graph_s_time_and_keeps_its_accuracy(tiny_bundle):
    assert [baseline.time_target("x", ratio).met for ratio in (0.5, 0.51)] == [True, False]
    metrics = {"val": {"fp32": {"miou": 0.76}, "int8": {"miou": 0.739}}}
    measured = Bundle(tiny_bundle.path, replace(tiny_bundle.manifest, metrics=metrics))
    assert [target.met for target in baseline.accuracy_targets(measured, "int8")] == [False]
    assert [target.met for target in baseline.accuracy_targets(measured, "fp32")] == [True]
    assert baseline.accuracy_targets(tiny_bundle, "fp32") == []


def test_without_the_repository_s_history_the_first_graph_is_skipped_with_a_line(tmp_path, monkeypatch):
    monkeypatch.setattr(baseline, "FIRST_GRAPH", "0" * 40)
    with pytest.raises(Skipped, match="Git history"):
        baseline._first_bundle(tmp_path)


def test_a_record_shows_every_target_what_was_timed_and_how_long_it_all_took():
    judged = [Target("rate, bf16", 23.44, "≥", 10.0, "× naive"), Target("start", 4.0, "<", 3.0, "s")]
    naive = {"size": [512, 1024], "ms": {"naive": 1237.4, "bf16": 52.8}, "times_naive": {"bf16": 23.44}}
    first = {"input_size": [384, 512], "ms": {"first graph": 20.0, "now": 9.0}}
    told = {
        "date": "2026-01-02T00:00:00+00:00",
        "machine": {"cpu": "some CPU", "cpus": 2},
        "model": {"name": "net"},
        "measurements": {
            "naive": naive
            | {"agreement_percent": {"bf16": 99.5}, "targets": [judged[0].to_json()], "seconds": 100},
            "baseline": first | {"shortest_ms": {"first graph": 19.0, "now": 8.0}, "targets": [], "seconds": 80},
            "startup": {"targets": [judged[1].to_json()]},
            "memory": {"resident_mb": {"end": {"now": 263.1}}},
            "freshness": {"skipped": "no rclpy"},
        },
    }
    lines = record.targets(told)
    assert lines[0] == "Measured on some CPU, 2 CPUs, 2026-01-02, in 3 minutes; model `net`."
    assert "| rate, bf16 (naive) | 23.4 × naive | ≥ 10.0 | met |" in lines
    assert "| start (startup) | 4.00 s | < 3.00 | missed |" in lines
    assert "| freshness | skipped: no rclpy | | |" in lines
    assert {"| bf16 | 52.8 | 23.4 | 99.50 % |", "| now | 9.0 | 8.0 | 0.45 |"} <= set(record.speeds(told))
    said = " ".join(record.sentence(told))
    assert "1024×512 frame becomes a mask in 52.8 ms" in said and "23 times" in said and "263 MB" in said


def test_a_machine_s_row_names_it_and_every_way_that_ran():
    ways = [Candidate("openvino", "CPU", precision) for precision in ("int8", "fp32", "bf16")]
    timings = (Timing(ways[0], 7.24), Timing(ways[1], 17.2), Timing(ways[2], None, "does not run"))
    line = row.row("net 512×384", timings)
    assert line.count("|") == len(row.HEADINGS) + 1
    assert line.endswith("| net 512×384 | openvino CPU int8 | 7.2 | openvino CPU fp32 17.2 |")


# ---- how it is measured --------------------------------------------------------------------------
def test_peers_take_turns_over_the_same_frames():
    calls = []
    peers = {name: lambda frame, name=name: calls.append((name, frame)) for name in ("naive", "ours")}
    times = take_turns(peers, range(100), TURN + 2)
    assert [name for name, _ in calls] == ["naive"] * TURN + ["ours"] * TURN + ["naive"] * 2 + ["ours"] * 2
    for name in peers:
        assert [frame for who, frame in calls if who == name] == list(range(TURN + 2))
        assert len(times[name]) == TURN + 2


def test_resident_memory_is_that_of_the_process_in_megabytes():
    before = resident(os.getpid())
    block = np.ones(100_000_000, np.uint8)
    after = resident(os.getpid())
    assert 80 < after["now"] - before["now"] < 120
    assert after["peak"] >= after["now"] > block.nbytes / 1e6


def test_without_torch_our_rate_is_measured_and_the_naive_peer_skipped_with_a_note(tiny_bundle, monkeypatch):
    monkeypatch.setattr(rate, "find_spec", lambda name: None)
    measurement = rate.measure(Settings(tiny_bundle, (64, 96), None, quick=True))
    assert measurement.values["fps"]["fp32"] > 0
    assert measurement.targets == []
    assert any("naive peer skipped: torch" in note for note in measurement.notes)


def test_every_usable_engine_is_timed_in_fp32(tiny_bundle):
    values = engines.measure(Settings(tiny_bundle, (64, 96), None, quick=True)).values
    usable = {f"{info['engine']} {info['device']} fp32" for info in values["engines"] if info["usable"]}
    assert usable and usable <= set(values["ms"]) | {"torch CUDA fp32"}  # the bundle has no program for torch


@pytest.mark.training
@pytest.mark.parametrize("model", ["camvid_lite0", "camvid_light"])
def test_the_naive_peer_gives_the_masks_that_the_engine_gives(model):
    pytest.importorskip("torch")
    pytest.importorskip("segmentation_models_pytorch")
    if not (MODELS / model).is_dir():
        pytest.skip(f"{MODELS / model} is not there")
    from transkd_ros.benchmark.naive import NaiveSegmenter
    from transkd_ros.frames import decode_image
    from transkd_ros.model.engines import open_runtime
    from transkd_ros.segmenter import Segmenter

    bundle, size = load_bundle(MODELS / model), (128, 256)
    naive = NaiveSegmenter(bundle, size, threads=2)
    ours = Segmenter(open_runtime(bundle, device="cpu", precision="fp32", input_size=size))
    for message in frame_messages(2, size):
        mask = naive.segment(message)
        assert len(np.unique(mask)) > 1
        assert np.mean(mask == ours(decode_image(message)).mask) > 0.99


# ---- the command ---------------------------------------------------------------------------------
@pytest.mark.timeout(300)  # starts nodes and processes, one after the other
def test_a_quick_run_leaves_every_measurement_in_the_json(tmp_path, tiny_bundle):
    pytest.importorskip("rclpy", reason="freshness and memory are those of a ROS 2 graph")
    output = tmp_path / "benchmark.json"
    result = benchmark("--model", tiny_bundle.path, "--size", "96x64", "--quick", "--output", output)
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads(output.read_text())
    assert report["machine"]["cpus"] and report["versions"]["numpy"] and report["date"] and report["quick"]
    assert report["model"]["name"] == "tiny" and report["model"]["files"]

    measurements = report["measurements"]
    assert list(measurements) == list(MEASUREMENTS)
    assert all(values["seconds"] >= 0 for values in measurements.values())
    if "skipped" in measurements["baseline"]:  # a copy without the repository's history
        assert "Git history" in measurements.pop("baseline")["skipped"]
    assert not [name for name, values in measurements.items() if "skipped" in values]
    assert measurements["naive"]["fps"]["fp32"] > 0  # the network of this bundle has no naive peer
    stages = {"take", "decode", "resize", "upsize", "message", "publish", "total"}
    assert all(set(cost) == stages for cost in measurements["node-cost"]["ms"].values())
    assert measurements["freshness"]["answered"] > 0 and measurements["freshness"]["age_published_ms"]["p95"] > 0
    assert measurements["memory"]["resident_mb"]["end"]["now"] > 10
    assert measurements["comparison"]["ms"] > 0 and measurements["comparison"]["node_cpu_ms"] > 0
    peaks = measurements["evaluation"]["memory"]["peak_mb"]
    assert 10 < peaks["engine"] < peaks["evaluation"]
    assert len(measurements["evaluation"]["frames_per_second"]["evaluation"]) == 1
    assert all(len(values) == 1 and values[0] > 0 for values in measurements["startup"]["seconds_to_mask"].values())
    counts = {"naive": 0, "node-cost": 2, "engines": 1, "baseline": 1, "startup": 2, "freshness": 1, "memory": 2}
    counts |= {"evaluation": 2, "comparison": 2}  # the tiny model has no mIoU to judge, and its network no naive peer
    for name, measured in measurements.items():
        targets = measured["targets"]
        assert len(targets) == counts[name]
        for target in targets:
            assert set(target) == {"name", "value", "sense", "limit", "unit", "met"}
            assert target["name"] in result.stdout


def test_an_interrupt_ends_it_and_keeps_what_was_measured(tmp_path, tiny_bundle):
    pytest.importorskip("rclpy", reason="interrupted while a ROS 2 graph runs")
    output = tmp_path / "benchmark.json"
    options = ("--size", "96x64", "--frames", 3000, "--only", "naive", "memory", "--output", output)
    with subprocess.Popen(
        command("--model", tiny_bundle.path, *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT | {"PYTHONUNBUFFERED": "1"},
    ) as process:
        next(line for line in process.stdout if "memory" in line)
        time.sleep(1.0)  # any moment will do; by now the node is starting or running
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert list(json.loads(output.read_text())["measurements"]) == ["naive"]


@pytest.mark.parametrize("arguments", [("--model", "no_such_model"), ("--size", "100x64")])
def test_bad_input_ends_with_one_line(tmp_path, tiny_bundle, arguments):
    result = benchmark("--model", tiny_bundle.path, "--quick", "--output", tmp_path / "o.json", *arguments)
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1 and arguments[1] in result.stderr
    assert not (tmp_path / "o.json").exists()
