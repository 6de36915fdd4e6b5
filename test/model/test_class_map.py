"""Masks of one class table are read as those of another by the names of the classes."""

from __future__ import annotations

import numpy as np
import pytest

from transkd_ros.model.class_map import ClassTableError, class_map
from transkd_ros.model.labels import LabelTable

BLACK = (0, 0, 0)
MODEL = LabelTable(("road", "car", "sky"), (BLACK,) * 3)
LABELS = LabelTable(("sky", "bus", "road"), (BLACK,) * 3, ignore_id=200)


def test_ids_become_those_of_the_same_name_and_others_are_ignored():
    mapping = class_map(LABELS, MODEL, "the labels", "m")
    assert mapping(np.array([[0, 1, 2, 200, 7]], np.uint8)).tolist() == [[2, 255, 0, 255, 255]]
    assert mapping.undefined[[0, 1, 2, 200, 7, 255]].tolist() == [False, False, False, False, True, True]
    assert mapping.scored.tolist() == [True, False, True]


def test_what_only_one_side_knows_is_told():
    text = class_map(LABELS, MODEL, "the labels", "m").remark("the labels", "m")
    assert "bus of the labels are no classes of m" in text and "car of m are never labelled" in text
    assert class_map(MODEL, MODEL, "the labels", "m").remark("the labels", "m") == ""


def test_tables_without_a_common_name_are_refused():
    with pytest.raises(ClassTableError, match="the labels and m have no class in common: a against road, car, sky"):
        class_map(LabelTable(("a",), (BLACK,)), MODEL, "the labels", "m")
