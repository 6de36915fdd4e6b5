"""The tune command shows every candidate's time and leaves it for the next start."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def tune(cache, *arguments):
    command = [sys.executable, "-m", "transkd_ros.tune", *map(str, arguments)]
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)


def test_the_table_shows_every_candidate_and_the_result_is_remembered(tmp_path, int8_bundle):
    pytest.importorskip("openvino")
    result = tune(tmp_path, "--model", int8_bundle.path, "--device", "cpu")
    assert result.returncode == 0, result.stderr
    for word in ("96x64", "openvino", "int8", "fp32"):
        assert word in result.stdout
    assert list(tmp_path.glob("transkd_ros/*/tuning/*.json"))


@pytest.mark.parametrize("arguments", [("--model", "no_such"), ("--size", "100x64"), ("--precision", "int8")])
def test_bad_input_ends_with_one_line(tmp_path, tiny_bundle, arguments):
    result = tune(tmp_path, "--model", tiny_bundle.path, *arguments)
    assert result.returncode == 2
    assert len(result.stderr.strip().splitlines()) == 1
