"""A teacher of other classes teaches ours by a class map; one that does not fit is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

pytest.importorskip("torch", reason="the training wing needs torch")

import torch

from training.class_maps import ClassMap, ClassMapError
from training.distillers import ResponseKD
from training.module import ClassTableError, SegmentationModule
from training.networks import NetworkSpec, build_network
from training.teachers import Teacher
from transkd_ros.model.labels import LabelTable

pytestmark = pytest.mark.training
SHIPPED = Path(__file__).parents[2] / "config" / "class_maps" / "cityscapes_camvid.yaml"
CITYSCAPES = NetworkSpec("segformer", "mit_b0", 19)


def test_the_probabilities_of_the_classes_that_belong_together_are_summed():
    class_map = ClassMap.load("cityscapes_camvid")
    logits = torch.randn(2, 19, 3, 3)
    mapped, probabilities = class_map(logits).softmax(1), logits.softmax(1)
    own, theirs = class_map.student.names, class_map.teacher.names
    fence = probabilities[:, [theirs.index("wall"), theirs.index("fence")]].sum(1)
    torch.testing.assert_close(mapped[:, own.index("fence")], fence, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(mapped.sum(1), torch.ones(2, 3, 3))


def written(tmp_path, **changes):
    classes = yaml.safe_load(SHIPPED.read_text())["classes"]
    content = {"teacher": "cityscapes", "student": "camvid", "classes": classes | changes}
    content["classes"] = {name: own for name, own in content["classes"].items() if own}
    path = tmp_path / "map.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"wall": "hedge"}, "student camvid has no class 'hedge'"),
        ({"tram": "car"}, "teacher cityscapes has no class 'tram'"),
        ({"wall": None}, "leaves out wall"),
    ],
)
def test_a_map_that_names_an_unknown_class_or_leaves_one_out_is_refused(tmp_path, changes, reason):
    with pytest.raises(ClassMapError, match=reason):
        ClassMap.load(written(tmp_path, **changes))


def test_an_unknown_map_lists_those_there_are():
    with pytest.raises(FileNotFoundError, match="cityscapes_camvid"):
        ClassMap.load("nobody")


def teacher(labels: LabelTable | None, class_map: ClassMap | None = None) -> Teacher:
    return Teacher(build_network(CITYSCAPES), CITYSCAPES, labels, "published", class_map=class_map)


def test_a_mapped_teacher_knows_the_students_classes_and_teaches_them():
    mapped = teacher(LabelTable.load("cityscapes"), ClassMap.load("cityscapes_camvid"))
    module = SegmentationModule(encoder="mit_b0", labels="camvid")
    module.learn_from(mapped, ResponseKD())
    losses = module.losses(torch.zeros(1, 3, 64, 64, dtype=torch.uint8), torch.zeros(1, 64, 64, dtype=torch.uint8))
    assert torch.isfinite(losses["response"])


def test_a_map_of_another_order_is_refused_by_name_not_by_count():
    table = LabelTable.load("cityscapes")
    swapped = LabelTable((table.names[1], table.names[0], *table.names[2:]), table.colors)
    with pytest.raises(ClassMapError, match="its class 0 is sidewalk, in the map road"):
        teacher(swapped, ClassMap.load("cityscapes_camvid"))


def test_a_published_teacher_that_does_not_say_its_classes_is_refused_where_logits_are_compared():
    module = SegmentationModule(encoder="mit_b0", labels="cityscapes")
    with pytest.raises(ClassTableError, match=r"name its model\.teacher\.labels"):
        module.learn_from(teacher(None), ResponseKD())
