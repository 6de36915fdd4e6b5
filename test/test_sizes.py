"""A size is written in one order, with its sides named where there is room for it, and older files stay readable."""

import pytest

from transkd_ros import sizes


def test_a_size_in_a_line_of_text_is_width_by_height():
    assert sizes.parse("640x480") == (480, 640)
    assert sizes.parse(sizes.text((384, 512))) == (384, 512)


@pytest.mark.parametrize("text", ["640", "0x480", "-1x5", "ax5", "640x", ""])
def test_other_text_is_refused(text):
    with pytest.raises(ValueError, match="is not WIDTHxHEIGHT"):
        sizes.parse(text)


def test_a_size_in_a_file_names_its_sides():
    assert sizes.named((384, 512)) == {"width": 512, "height": 384}
    assert sizes.read(sizes.named((384, 512))) == (384, 512)


def test_the_list_of_older_files_is_height_and_width():
    assert sizes.read([384, 512]) == sizes.read((384, 512)) == (384, 512)


@pytest.mark.parametrize(
    "value",
    [None, 64, "64", [64], [64, 0], [64, 1.5], [True, 64], {"width": 64}, {"width": 64, "height": -1},
     {"width": 64, "height": 64, "depth": 3}],
)  # fmt: skip
def test_another_value_is_refused(value):
    with pytest.raises(ValueError, match="in pixels"):
        sizes.read(value)
