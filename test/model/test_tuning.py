"""`auto` takes what is fastest here, remembers it, and runs on whatever a broken, foreign or closed cache holds."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from transkd_ros.model import cache, tuning
from transkd_ros.model.engines import Candidate, RuntimeUnavailable, open_runtime, tune
from transkd_ros.model.engines.base import Prediction

SLOW, FAST, BROKEN = Candidate("a", "CPU", "fp32"), Candidate("a", "CPU", "int8"), Candidate("b", "GPU", "fp16")
KEY = {"bundle": "of a test"}


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


class Stub:
    """Sleeps for as long as the candidate is meant to take."""

    engine = device = precision = reason = ""
    input_size = (2, 2)

    def __init__(self, seconds):
        self.seconds, self.closed = seconds, False

    def infer(self, image, want_confidence=False):
        time.sleep(self.seconds)
        return Prediction(np.zeros((2, 2), np.uint8), None)

    def close(self):
        self.closed = True


class Loader:
    def __init__(self):
        self.loaded = []

    def __call__(self, candidate):
        if candidate == BROKEN:
            raise RuntimeUnavailable("no driver")
        self.loaded.append((candidate, Stub(0.02 if candidate == SLOW else 0.0)))
        return self.loaded[-1][1]

    @property
    def candidates(self):
        return [candidate for candidate, _ in self.loaded]


def stored(folder):
    (path,) = folder.glob("transkd_ros/*/tuning/*.json")
    return path


# ---- the choice ----------------------------------------------------------------------------------
def test_the_fastest_is_kept_the_others_closed_and_all_times_told():
    load = Loader()
    choice = tuning.fastest([SLOW, BROKEN, FAST], load, KEY)
    assert choice.runtime is dict(load.loaded)[FAST] and not choice.runtime.closed
    assert dict(load.loaded)[SLOW].closed
    assert [timing.candidate for timing in choice.timings] == [FAST, SLOW, BROKEN]
    text = str(choice)
    assert "measured now: a CPU int8" in text and "b GPU fp16 does not run: no driver" in text


def test_a_candidate_that_throws_while_it_is_timed_is_closed_and_passed_over():
    load = Loader()

    def load_for_once(candidate):
        runtime = load(candidate)
        if candidate == FAST:
            runtime.infer = lambda *_: 1 / 0
        return runtime

    choice = tuning.fastest([FAST, SLOW], load_for_once, KEY)
    assert choice.runtime is dict(load.loaded)[SLOW] and dict(load.loaded)[FAST].closed
    assert "a CPU int8 does not run: division by zero" in str(choice)


def test_when_the_time_is_up_the_rest_is_not_tried_and_the_choice_says_so(monkeypatch):
    monkeypatch.setattr(tuning, "LIMIT", 0.0)
    choice = tuning.fastest([SLOW, FAST], Loader(), KEY)
    assert [timing.candidate for timing in choice.timings] == [SLOW, FAST]
    assert "a CPU int8 not tried" in str(choice)


def test_where_nothing_runs_the_reasons_are_given():
    with pytest.raises(RuntimeUnavailable, match="no driver"):
        tuning.fastest([BROKEN], Loader(), KEY)


# ---- the memory ----------------------------------------------------------------------------------
def test_the_second_start_loads_the_winner_alone(cache_folder):
    first = tuning.fastest([SLOW, FAST], Loader(), KEY)
    again = Loader()
    second = tuning.fastest([SLOW, FAST], again, KEY)
    assert again.candidates == [FAST]
    assert second.timings == first.timings and str(stored(cache_folder)) in str(second)


def test_other_circumstances_are_measured_on_their_own():
    tuning.fastest([SLOW, FAST], Loader(), KEY)
    load = Loader()
    tuning.fastest([SLOW, FAST], load, KEY | {"threads": 1})
    assert load.candidates == [SLOW, FAST]


def test_afresh_measures_again():
    tuning.fastest([SLOW, FAST], Loader(), KEY)
    load = Loader()
    tuning.fastest([SLOW, FAST], load, KEY, afresh=True)
    assert load.candidates == [SLOW, FAST]


@pytest.mark.parametrize("content", ["{", "[]", '{"key": {"bundle": "of a test"}, "timings": []}', "\x00"])
def test_a_broken_memory_is_ignored_with_a_line_and_written_anew(cache_folder, content):
    tuning.fastest([SLOW, FAST], Loader(), KEY)
    path = stored(cache_folder)
    path.write_text(content)
    text = str(tuning.fastest([SLOW, FAST], Loader(), KEY))
    assert f"ignored {path}" in text and "\n" not in text and "measured now" in text
    assert json.loads(path.read_text())["key"] == KEY


def test_the_memory_of_another_machine_is_ignored_with_a_line(cache_folder):
    tuning.fastest([SLOW, FAST], Loader(), KEY)
    path = stored(cache_folder)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"key": {"machine": "another"}}))
    assert "of another machine, model or version" in str(tuning.fastest([SLOW, FAST], Loader(), KEY))


def test_a_winner_that_no_longer_runs_is_told_of_and_the_rest_measured():
    tuning.fastest([SLOW, FAST], Loader(), KEY)

    def load(candidate):
        if candidate == FAST:
            raise RuntimeUnavailable("library gone")
        return Loader()(candidate)

    choice = tuning.fastest([SLOW, FAST], load, KEY)
    assert choice.timings[0].candidate == SLOW
    assert "remembered a CPU int8, but library gone" in str(choice)


def test_what_did_not_run_is_tried_again_and_wins_once_it_does():
    """A GPU whose libraries come later, and whose memory is full for once, is not given up for good."""
    broken, full = {FAST}, "no driver"

    def load(candidate):
        if candidate in broken:
            raise RuntimeUnavailable(full)
        return Loader()(candidate)

    def start():
        return tuning.fastest([SLOW, FAST], load, KEY)

    assert start().timings[0].candidate == SLOW
    broken.clear()
    choice = start()
    assert choice.timings[0].candidate == FAST and "the rest tried again" in str(choice)
    broken.add(FAST)
    full = "out of memory"
    assert start().timings[0].candidate == SLOW  # and what is remembered stays
    broken.clear()
    assert start().timings[0].candidate == FAST


def test_what_found_no_time_is_tried_at_the_next_starts(monkeypatch):
    monkeypatch.setattr(tuning, "LIMIT", 0.0)
    third = Candidate("c", "CPU", "fp32")
    tried = []
    for _ in range(4):
        load = Loader()
        choice = tuning.fastest([SLOW, third, FAST], load, KEY)
        tried.append([candidate for candidate in load.candidates])
    assert tried[0] == [SLOW] and third in tried[1] and FAST in tried[2] and len(tried[3]) == 1
    assert all(timing.ms is not None for timing in choice.timings)


def test_a_cache_that_cannot_be_written_costs_a_line_and_nothing_else(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    choice = tuning.fastest([SLOW, FAST], Loader(), KEY)
    assert choice.timings[0].candidate == FAST and "not remembered: cache folder" in str(choice)


def test_a_full_disk_costs_a_line_and_nothing_else(monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tuning, "write_atomic", full)
    choice = tuning.fastest([SLOW, FAST], Loader(), KEY)
    assert choice.timings[0].candidate == FAST and "No space left on device" in str(choice)


# ---- the folder ----------------------------------------------------------------------------------
def test_the_folder_is_of_this_processor_and_a_relative_one_is_ignored_as_xdg_says(monkeypatch, tmp_path):
    assert cache.machine_folder("x") == tmp_path / "transkd_ros" / cache.machine_id() / "x"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.machine_folder("x").is_relative_to(tmp_path / ".cache")


# ---- with real engines ---------------------------------------------------------------------------
def test_auto_measures_once_and_then_remembers(int8_bundle, colours):
    pytest.importorskip("openvino")
    first = open_runtime(int8_bundle, device="cpu")
    assert "measured now" in first.reason
    assert "openvino CPU int8" in first.reason and "openvino CPU fp32" in first.reason
    second = open_runtime(int8_bundle, device="cpu")
    assert "remembered in" in second.reason and second.precision == first.precision
    np.testing.assert_array_equal(second.infer(colours).mask, colours.argmax(2))


def test_a_damaged_compiled_graph_is_compiled_again(tiny_bundle, colours, cache_folder):
    pytest.importorskip("openvino")
    open_runtime(tiny_bundle, "openvino", "cpu", "fp32").close()
    blobs = [path for path in cache_folder.rglob("openvino/*") if path.is_file()]
    assert blobs
    for blob in blobs:
        blob.write_bytes(b"damaged")
    runtime = open_runtime(tiny_bundle, "openvino", "cpu", "fp32")
    np.testing.assert_array_equal(runtime.infer(colours).mask, colours.argmax(2))


def test_without_a_cache_folder_a_graph_is_compiled_all_the_same(tiny_bundle, colours, monkeypatch, tmp_path):
    pytest.importorskip("openvino")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    runtime = open_runtime(tiny_bundle, "openvino", "cpu", "fp32")
    np.testing.assert_array_equal(runtime.infer(colours).mask, colours.argmax(2))


def test_tune_tells_the_time_of_every_candidate(tiny_bundle):
    pytest.importorskip("openvino")
    choice = tune(tiny_bundle, device="cpu")
    assert all(timing.ms for timing in choice.timings) and len(choice.timings) >= 2
    choice.runtime.close()
