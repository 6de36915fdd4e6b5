"""The rendered drives: repeatable, fully labelled, coherent in time, and strict about their arguments."""

import numpy as np
import pytest

from transkd_ros.scenes import Drive, drive

SMALL = (96, 128)


def test_same_seed_gives_the_same_bytes_in_any_order() -> None:
    forward = [Drive(3, SMALL).frame(i) for i in (0, 4, 9)]
    town = Drive(3, SMALL)
    backward = [town.frame(i) for i in (9, 4, 0)][::-1]
    for (image, labels), (image2, labels2) in zip(forward, backward, strict=True):
        np.testing.assert_array_equal(image, image2)
        np.testing.assert_array_equal(labels, labels2)


def test_seeds_differ() -> None:
    first, second = Drive(0, SMALL).frame(0), Drive(1, SMALL).frame(0)
    assert np.mean(first[0] != second[0]) > 0.5
    assert np.mean(first[1] != second[1]) > 0.05


def test_every_pixel_is_labelled_and_every_class_appears() -> None:
    labels = np.stack([Drive(seed, SMALL).frame(i)[1] for seed in range(8) for i in (0, 30)])
    assert set(np.unique(labels)) - {255} == set(range(11))
    assert np.mean(labels == 255) < 0.1


@pytest.mark.parametrize("seed", range(3))
def test_neighbouring_frames_are_coherent_and_not_frozen(seed: int) -> None:
    (image, labels), (image2, labels2) = drive(seed, 2, SMALL, rate=30.0)
    assert np.mean(labels == labels2) > 0.85
    assert (image != image2).any()


def test_time_is_index_over_rate() -> None:
    town = Drive(2, SMALL)
    np.testing.assert_array_equal(town.frame(4, 10.0)[1], town.frame(8, 20.0)[1])


@pytest.mark.parametrize("size", [(64, 64), (65, 131), (360, 480), (720, 1280)])
def test_sizes_are_honoured(size: tuple[int, int]) -> None:
    image, labels = Drive(5, size).frame(11)
    assert image.shape == (*size, 3) and image.dtype == np.uint8
    assert labels.shape == size and labels.dtype == np.uint8
    assert labels.flags.c_contiguous and image.flags.c_contiguous


def test_geometry_scales_with_size() -> None:
    small, large = Drive(6, (120, 160)).frame(3)[1], Drive(6, (360, 480)).frame(3)[1]
    assert np.mean(small == large[1::3, 1::3]) > 0.85


def test_road_lies_below_and_sky_above() -> None:
    for seed in range(4):
        labels = Drive(seed, SMALL).frame(0)[1]
        assert np.mean(labels[70:84] == 3) > 0.3
        assert not (labels[70:] == 0).any()


def test_drive_is_the_first_frames_of_a_drive() -> None:
    frames = list(drive(4, 3, SMALL, rate=5.0))
    assert len(frames) == 3
    np.testing.assert_array_equal(frames[2][0], Drive(4, SMALL).frame(2, 5.0)[0])
    assert list(drive(4, 0, SMALL)) == []


@pytest.mark.parametrize("seed", [-1, 1.5, True, "1"])
def test_bad_seed_is_refused(seed: object) -> None:
    with pytest.raises(ValueError, match="seed"):
        Drive(seed, SMALL)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(63, 64), (64, 63), (64,), (64, 64, 3), (64.0, 64), (100000, 64), 64])
def test_bad_size_is_refused(size: object) -> None:
    with pytest.raises(ValueError, match="size"):
        Drive(0, size)  # type: ignore[arg-type]


@pytest.mark.parametrize(("index", "rate", "name"), [
    (-1, 10.0, "index"), (0.5, 10.0, "index"), (True, 10.0, "index"),
    (0, 0.0, "rate"), (0, -5.0, "rate"), (0, float("nan"), "rate"), (0, float("inf"), "rate"),
])
def test_bad_frame_arguments_are_refused(index: int, rate: float, name: str) -> None:
    with pytest.raises(ValueError, match=name):
        Drive(0, SMALL).frame(index, rate)


def test_bad_frame_count_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="frames"):
        drive(0, -1, SMALL)


def test_weather_can_be_chosen_and_dusk_is_dark():
    clear, dusk = (Drive(3, (96, 128), weather).frame(0)[0] for weather in ("clear", "dusk"))
    assert dusk.mean() < 0.6 * clear.mean()
    with pytest.raises(ValueError, match="weather must be one of clear"):
        Drive(3, (96, 128), "hail")
