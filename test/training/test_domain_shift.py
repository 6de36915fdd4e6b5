"""The measurement of adaptation: its drives are in the weather that was asked for, its table says what was measured."""

import pytest

pytest.importorskip("torch", reason="the training wing needs torch")
pytest.importorskip("lightning")

from training import domain_shift
from transkd_ros.bags.label_classes import read_classes
from transkd_ros.bags.storage import BagReader
from transkd_ros.frames import decode

pytestmark = pytest.mark.training


def brightness(path):
    with BagReader(path) as bag:
        assert read_classes(bag, "/camera/ground_truth").names[0] == "sky"
        assert bag.counts["/camera/ground_truth"] == bag.counts["/camera/image_raw"] == 3
        return decode(next(bag.frames("/camera/image_raw"))[1]).pixels.mean()


def test_drives_are_labelled_and_in_their_weather(tmp_path):
    made = {w: domain_shift.record(tmp_path / w, w, 3, 5000, (96, 128)) for w in ("dusk", "rain")}
    assert brightness(made["dusk"]) < brightness(made["rain"])


def test_the_table_shows_what_was_measured_before_and_after(tmp_path):
    found = {"teachers": (0.52, 0.9), "before": (0.41, 0.85), "after": (0.475, 0.875)}
    scores = {who: {"miou": miou, "pixel_accuracy": share} for who, (miou, share) in found.items()}
    weathers = {"dusk": {"labels": scores, "camvid_val": {"before": 0.727, "after": 0.72}}}
    result = {"command": "C", "student": "S", "teachers": ["T"], "weathers": weathers}
    result["input_size"] = {"width": 96, "height": 64}
    row = "| dusk | 52.0 (90.0) | 41.0 (85.0) | 47.5 (87.5) | +6.5 | 72.7 | 72.0 |"
    assert row in domain_shift.page(result, "picture.png")
    (tmp_path / "picture.png").write_bytes(domain_shift.plot(result))
    assert (tmp_path / "picture.png").stat().st_size > 1000
