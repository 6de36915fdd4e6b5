"""Soft labels: a committee's mean, stored once per frame, cut and flipped with it, refused where they do not fit."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

pytest.importorskip("torch", reason="the training wing needs torch")

import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from training import annotate as command
from training.annotate import annotate, check_classes
from training.committee import Committee, scores
from training.data.camvid import CamVid
from training.data.samples import IGNORE
from training.data.transforms import _positions, soft_labels_at
from training.distillers import CWD, ResponseKD, TransKD
from training.distillers.base import DistillerError
from training.module import SegmentationModule, cross_entropy
from training.soft_labels import INDEX, Annotators, SoftLabelError, SoftLabels, StoredTeacher
from training.teachers import TeacherSource, load_teacher
from transkd_ros.cli import CommandError
from transkd_ros.model.labels import LabelTable

pytestmark = pytest.mark.training
TABLE = LabelTable.load("camvid")
ENCODER = "mit_b0"


def annotators(**changes) -> Annotators:
    made = {"classes": TABLE.to_json(), "teachers": [], "size": (64, 96), "scales": (1.0,), "flip": True, "weights": {}}
    return Annotators(**made | {"stride": 4} | changes)


@pytest.fixture(scope="module")
def member(random_teacher):
    return load_teacher(TeacherSource(str(random_teacher(ENCODER))))


@pytest.fixture
def data(shared_scene_tree):
    made = CamVid(str(shared_scene_tree), scenes=0, crop=(64, 96), val_size=(64, 96), batch_size=2, workers=0)
    made.setup("fit")
    return made


@pytest.fixture
def store(data, member, tmp_path):
    """The training frames of `data`, annotated."""
    committee = Committee([member], (64, 96))
    made = SoftLabels.create(tmp_path / "labels", committee.described([None], 4))
    annotate(committee, made, data.train_set, lambda: None)
    return made


# ---- the committee
def test_a_committee_says_the_mean_of_what_its_members_say_of_both_sides(data, member, random_teacher):
    other = load_teacher(TeacherSource(str(random_teacher("mit_b1"))))
    image = data.train_set[0][0]
    mirrored = np.ascontiguousarray(image[:, ::-1])
    alone = [Committee([one], (64, 96), flip=False) for one in (member, other)]
    expected = sum(one(image, (24, 32)) + one(mirrored, (24, 32))[..., ::-1] for one in alone) / 4
    together = Committee([member, other], (64, 96))(image, (24, 32))
    assert together.shape == (11, 24, 32)
    np.testing.assert_allclose(together, expected, atol=1e-5)
    np.testing.assert_allclose(together.sum(0), 1, atol=1e-5)


def test_a_weighted_class_is_said_earlier_and_probabilities_still_sum_to_one(data, member):
    image = data.train_set[0][0]
    plain, weighted = (Committee([member], (64, 96), weights=w)(image, (24, 32)) for w in ({}, {"pole": 3.0}))
    odds = [p[2] / (1 - p[2]) for p in (plain, weighted)]
    np.testing.assert_allclose(odds[1], 3 * odds[0], rtol=1e-3)
    np.testing.assert_allclose(weighted.sum(0), 1, atol=1e-5)


def test_members_of_other_classes_and_unknown_weights_are_refused(member, random_teacher):
    with pytest.raises(SoftLabelError, match="no class poles"):
        Committee([member], (64, 96), weights={"poles": 2.0})
    other = load_teacher(TeacherSource(str(random_teacher("mit_b1"))))
    other.labels = LabelTable(("a", *TABLE.names[1:]), TABLE.colors)
    with pytest.raises(SoftLabelError, match="other classes"):
        Committee([member, other], (64, 96))


def test_members_and_committee_are_scored_against_the_labels(data, member):
    found = scores(Committee([member], (64, 96)), data.val_set, lambda: None)
    assert set(found) == {"committee", member.source}
    image, labels = data.val_set[0]
    one = scores(Committee([member], (64, 96)), [(image, labels)], lambda: None)["committee"]
    mask = Committee([member], (64, 96))(image, labels.shape).argmax(0)
    right = ((mask == 3) & (labels == 3)).sum() / (((mask == 3) & (labels != IGNORE)) | (labels == 3)).sum()
    assert one["iou"]["road"] == pytest.approx(right)


def test_a_class_that_neither_labels_nor_committee_hold_has_no_score():
    class OfRoad:
        labels, members = TABLE, ()

        def __call__(self, image, shape):
            return np.eye(11)[3][:, None, None].repeat(4, 1).repeat(6, 2)

    labels = np.array([[3] * 6] * 3 + [[0] * 6], np.uint8)
    found = scores(OfRoad(), [(np.zeros((4, 6, 3), np.uint8), labels)], lambda: None)["committee"]
    assert found == {"miou": pytest.approx(0.375), "iou": {"sky": 0.0, "road": 0.75}}


def test_teachers_of_other_classes_than_the_data_are_refused(member):
    committee = Committee([member], (64, 96))
    check_classes(committee, TABLE, "the data")
    with pytest.raises(CommandError, match=r"teachers know 11 classes .* the data 2 \(a, b …\): give .*--class-map"):
        check_classes(committee, LabelTable(("a", "b"), ((0, 0, 0), (1, 1, 1))), "the data")


# ---- the store
def test_what_was_stored_comes_back_and_a_second_pass_asks_nobody(data, store):
    image = data.train_set[1][0]
    found = store.of(image)
    assert found.dtype == np.float16 and found.shape == (11, 24, 32)
    assert annotate(None, store, data.train_set, lambda: None) == 0


def test_a_frame_of_other_data_is_refused_before_the_first_step(data, store):
    with pytest.raises(SoftLabelError, match="has no soft labels of a 128x96 frame"):
        store.of(255 - data.train_set[0][0])


def test_a_store_cut_off_in_the_middle_names_the_file_or_what_to_run(data, store):
    path = store._file(data.train_set[0][0])
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(SoftLabelError, match="is damaged"):
        data.use_soft_labels(store)
    path.unlink()
    with pytest.raises(SoftLabelError, match=r"annotate.py \(again\)"):
        data.use_soft_labels(store)


def test_a_store_of_another_committee_is_not_continued(tmp_path):
    SoftLabels.create(tmp_path / "s", annotators())
    assert SoftLabels.create(tmp_path / "s", annotators()).annotators == annotators()
    with pytest.raises(SoftLabelError, match="other size, stride; remove it, or choose another folder"):
        SoftLabels.create(tmp_path / "s", annotators(size=(96, 128), stride=2))


def test_a_folder_that_is_no_store_is_refused(tmp_path):
    (tmp_path / INDEX).write_text(json.dumps({"version": 99}))
    with pytest.raises(SoftLabelError, match="not a store of soft labels"):
        SoftLabels(tmp_path)


# ---- with the image
@pytest.mark.parametrize("flip", [False, True])
def test_soft_labels_are_cut_and_flipped_as_the_image_is(flip):
    """Stored at full size, they equal what the same augmentation makes of the labels themselves."""
    size = (48, 64)
    labels = torch.arange(size[1]).div(4, rounding_mode="floor").expand(size).to(torch.uint8) % 11
    stored = torch.nn.functional.one_hot(labels.long(), 11).permute(2, 0, 1).numpy().astype(np.float16)
    transform = v2.Compose([v2.RandomResizedCrop((32, 40), scale=(0.3, 0.6)), v2.RandomHorizontalFlip(float(flip))])
    torch.manual_seed(3)
    cut, positions = transform(tv_tensors.Mask(labels), tv_tensors.Mask(_positions(size)))
    soft = soft_labels_at(stored, positions.as_subclass(torch.Tensor), size, 1)
    assert torch.equal(soft.argmax(0).to(torch.uint8), cut.as_subclass(torch.Tensor))


def test_outside_of_the_frame_nothing_is_known():
    positions = torch.full((4, 4), IGNORE, dtype=torch.int32)
    soft = soft_labels_at(np.ones((5, 2, 2), np.float16), positions, (8, 8), 2)
    assert torch.equal(soft, torch.full((5, 2, 2), 0.2))


def test_a_batch_carries_soft_labels_of_its_own_images(data, store):
    data.use_soft_labels(store)
    images, labels, soft = next(iter(data.train_dataloader()))
    assert images.shape == (2, 3, 64, 96) and labels.shape == (2, 64, 96) and soft.shape == (2, 11, 16, 24)
    torch.testing.assert_close(soft.sum(1), torch.ones(2, 16, 24), atol=2e-3, rtol=0)


# ---- the stored teacher
@pytest.mark.parametrize("method", [ResponseKD(), CWD(stride=4, weight=0.7)])
def test_methods_of_logits_learn_from_a_store(store, data, method):
    module = SegmentationModule(encoder=ENCODER, distiller=method, teacher=TeacherSource(str(store.path)))
    data.use_soft_labels(store)
    losses = module.losses(*next(iter(data.train_dataloader())))
    assert len(losses) == 2 and all(torch.isfinite(loss) for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()


def test_a_method_of_feature_maps_is_refused_and_those_that_fit_are_named(store):
    with pytest.raises(DistillerError, match=r"reads stage maps.*ResponseKD"):
        SegmentationModule(encoder=ENCODER, distiller=TransKD(), teacher=TeacherSource(str(store.path)))


def test_a_student_of_other_classes_is_refused(tmp_path):
    SoftLabels.create(tmp_path / "s", annotators())
    with pytest.raises(ValueError, match=r"11 classes; model\.labels has 19"):
        SegmentationModule(
            encoder=ENCODER, labels="cityscapes", distiller=ResponseKD(), teacher=TeacherSource(str(tmp_path / "s"))
        )


def test_a_stored_teacher_shows_log_probabilities_and_nothing_else(tmp_path):
    teacher = StoredTeacher(SoftLabels.create(tmp_path / "s", annotators()))
    soft = torch.rand(2, 11, 4, 6).softmax(1)
    taps = teacher(torch.zeros(2, 3, 16, 24, dtype=torch.uint8), soft)
    torch.testing.assert_close(taps.logits.softmax(1), soft)
    assert taps.stages == () and taps.patches == ()


def test_a_batch_without_a_labelled_pixel_costs_nothing_and_harms_nothing():
    logits = torch.randn(2, 11, 4, 4, requires_grad=True)
    loss = cross_entropy(logits, torch.full((2, 4, 4), IGNORE))
    loss.backward()
    assert loss == 0 and not logits.grad.any()


# ---- the command
def test_the_command_annotates_a_recipes_frames_and_goes_on(
    tmp_path, random_teacher, shared_scene_tree, monkeypatch, capsys
):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "data:\n  class_path: training.data.camvid.CamVid\n"
        f"  init_args: {{root: {shared_scene_tree}, scenes: 0, crop: [64, 96], val_size: [64, 96], batch_size: 2}}\n"
    )

    def run(*more: str) -> str:
        given = ["--config", recipe, "--teacher", random_teacher(ENCODER), "--output", tmp_path / "labels"]
        monkeypatch.setattr(sys, "argv", ["annotate.py", *map(str, given), "--class-weights", "pole=2", *more])
        command.main()
        return capsys.readouterr().out

    assert "5 frames, 5 of them new" in run()
    assert "5 frames, 0 of them new" in run()
    with pytest.raises(SoftLabelError, match="other stride; remove it, or choose another folder"):
        run("--stride", "2")
