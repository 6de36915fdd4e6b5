"""What the stamps of the frames that came tell of those that did not."""

from __future__ import annotations

import pytest

from transkd_ros.nodes.segmentation.gaps import StampGaps


def missing(stamps):
    gaps = StampGaps()
    for stamp in stamps:
        gaps.add(stamp)
    return gaps.missing


def test_frames_missing_between_stamps_are_counted_even_where_most_are():
    assert missing(n / 30 for n in range(300) if n not in (100, 101, 150)) == 3
    two_of_seven = [n / 30 for n in range(700) if n % 7 in (0, 1)]
    assert missing(two_of_seven) == pytest.approx(500, abs=15)  # the first gap may pass for the interval


def test_jitter_repeated_stamps_pauses_and_a_clock_that_jumps_back_are_no_gaps():
    steady = [n / 30 + 0.008 * (n % 2) for n in range(100)]
    assert missing([*steady, *steady, *(stamp + 60 for stamp in steady)]) == 0
    assert missing([1.0, 1.0, 1.0]) == 0
