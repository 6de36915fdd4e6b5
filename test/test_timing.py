"""Percentiles, rates and diagnostics of what was timed."""

import threading

import pytest

from transkd_ros.timing import (
    Rate,
    Timings,
    diagnostic_status,
    drop_values,
    latency_values,
    read_drops,
    read_latencies,
    read_others,
)


def test_snapshot_gives_percentiles_in_milliseconds_by_stage():
    timings = Timings()
    for ms in range(101):
        timings.add("infer", ms / 1e3)
    timings.add("resize", 0.002)
    snapshot = timings.snapshot()
    assert list(snapshot) == ["infer", "resize"]
    assert snapshot["infer"] == pytest.approx({"p50": 50, "p95": 95, "p99": 99, "mean": 50, "count": 101})
    assert snapshot["resize"] == pytest.approx({"p50": 2, "p95": 2, "p99": 2, "mean": 2, "count": 1})


def test_percentiles_forget_what_left_the_window_and_the_count_does_not():
    timings = Timings(window=10)
    for seconds in [9.0] * 50 + [0.001] * 10:
        timings.add("infer", seconds)
    assert timings.snapshot()["infer"] == pytest.approx({"p50": 1, "p95": 1, "p99": 1, "mean": 1, "count": 60})


def test_without_a_window_every_duration_is_kept_in_order():
    timings = Timings(window=None)
    for ms in range(2000):
        timings.add("infer", ms / 1e3)
    assert timings.seconds["infer"].tolist() == [ms / 1e3 for ms in range(2000)]


def test_snapshot_while_another_thread_adds():
    timings = Timings(window=64)
    adding = threading.Thread(target=lambda: [timings.add(f"stage {i % 97}", 0.001) for i in range(20_000)])
    adding.start()
    while adding.is_alive():
        assert all(stage["p50"] == pytest.approx(1) for stage in timings.snapshot().values())
    assert sum(stage["count"] for stage in timings.snapshot().values()) == 20_000


def test_rate_counts_intervals_from_the_first_event_on():
    rate = Rate(window=5)
    assert rate.hz(100.0) == 0
    rate.tick(100.0)
    assert rate.hz(100.0) == 0
    for i in range(1, 11):
        rate.tick(100.0 + i / 10)
    assert rate.hz(101.0) == pytest.approx(10)


def test_rate_follows_the_window():
    rate = Rate(window=2)
    for i in range(101):
        rate.tick(i / 10)
    for i in range(1, 11):
        rate.tick(10 + i / 5)
    assert rate.hz(12.0) == pytest.approx(5)


def test_rate_falls_to_zero_when_events_stop():
    rate = Rate(window=2)
    for i in range(11):
        rate.tick(i / 10)
    assert rate.hz(2.5) == pytest.approx(2.5)
    assert rate.hz(10.0) == 0


def test_rate_starts_anew_when_the_clock_jumps_back():
    rate = Rate(window=5)
    for i in range(11):
        rate.tick(1000 + i / 10)
    assert rate.hz(3.0) == 0
    for i in range(11):
        rate.tick(4 + i / 20)
    assert rate.hz(4.5) == pytest.approx(20)


def test_the_mean_rate_is_that_of_all_events_and_leaves_out_what_the_clock_jumped_back():
    rate = Rate(window=1)
    assert (rate.count, rate.mean) == (0, 0)
    for now in (100, 101, 102, 50, 51, 52):
        rate.tick(now)
    assert (rate.count, rate.last) == (6, 52)
    assert rate.mean == pytest.approx(5 / 4)


def test_latencies_and_drops_are_read_from_diagnostics_as_they_were_told():
    timings = Timings()
    timings.add("infer", 0.0125)
    told = {"engine": "x", **latency_values(timings.snapshot(), ("p50", "p95")), **drop_values({"stale": 2, "size": 0})}
    values = {key: str(value) for key, value in told.items()}
    assert read_latencies(values) == {"infer": {"p50": 12.5, "p95": 12.5}}
    assert read_drops(values) == {"stale": 2, "size": 0}
    assert read_others(values) == {"engine": "x"}


def test_diagnostic_status_carries_every_value_as_text():
    messages = pytest.importorskip("diagnostic_msgs.msg")
    level = messages.DiagnosticStatus.WARN
    values = {"infer p50 [ms]": 12.346, "dropped": 3, "model": "x"}
    status = diagnostic_status("segmentation", level, "slow", values)
    assert (status.name, status.level, status.message) == ("segmentation", level, "slow")
    assert {pair.key: pair.value for pair in status.values} == {
        "infer p50 [ms]": "12.35",
        "dropped": "3",
        "model": "x",
    }
