"""Teachers: where they come from, and that they only show."""

import copy

import pytest

torch = pytest.importorskip("torch", reason="the training wing needs torch")

from training.distillers import (  # noqa: E402
    C2VKD,
    CWD,
    DistillerError,
    KnowledgeAdaptation,
    KnowledgeReview,
    ResponseKD,
    SpiritDistillation,
    TransKD,
)
from training.distillers.base import check_fit  # noqa: E402
from training.module import ClassTableError, SegmentationModule  # noqa: E402
from training.taps import Widths  # noqa: E402
from training.teachers import TeacherSource, load_teacher  # noqa: E402
from training.trained import TrainedError, read_bundle  # noqa: E402
from transkd_ros.resources import find_model  # noqa: E402

pytestmark = pytest.mark.training
IMAGES = torch.randint(256, (1, 3, 64, 96), dtype=torch.uint8)


def test_a_teacher_from_a_checkpoint_shows_what_its_network_computes(random_teacher):
    teacher = load_teacher(TeacherSource(str(random_teacher("mit_b1"))))
    shown = teacher(IMAGES)
    assert torch.equal(shown.logits, teacher.network(teacher.normalise(IMAGES)))
    assert [stage.shape[1] for stage in shown.stages] == [64, 128, 320, 512]


def test_a_teacher_stays_in_eval_mode_and_gives_no_gradients(random_teacher):
    teacher = load_teacher(TeacherSource(str(random_teacher("mit_b1")))).train()
    assert not any(module.training for module in teacher.modules())
    shown = teacher(IMAGES)
    assert not any(tensor.requires_grad for tensor in (shown.logits, *shown.stages, *shown.patches))
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_a_teacher_computes_in_its_own_precision_whatever_the_student_does(random_teacher):
    path = str(random_teacher("mit_b1"))
    exact, rounded = (load_teacher(TeacherSource(path, precision)) for precision in ("fp32", "bf16"))
    with torch.autocast("cpu", torch.bfloat16):
        assert exact(IMAGES).logits.dtype == torch.float32
    assert rounded(IMAGES).logits.dtype == torch.bfloat16


@pytest.mark.parametrize(("distiller", "runs"), [(TransKD(), 0), (KnowledgeReview(), 0), (ResponseKD(), 1)])
def test_a_head_that_no_loss_reads_does_not_run(random_teacher, distiller, runs):
    module = SegmentationModule(distiller=distiller, teacher=TeacherSource(str(random_teacher("mit_b1"))))
    calls = []
    module.teachers[0].network.decoder.register_forward_hook(lambda *_: calls.append(1))
    losses = module.losses(IMAGES, torch.zeros(1, 64, 96, dtype=torch.uint8))
    assert len(calls) == runs and all(torch.isfinite(loss) for loss in losses.values())


def test_a_copy_of_the_student_has_the_same_teacher(random_teacher):
    module = SegmentationModule(distiller=ResponseKD(), teacher=TeacherSource(str(random_teacher("mit_b1"))))
    assert copy.deepcopy(module).teachers[0] is module.teachers[0]


def test_a_shipped_bundle_is_a_teacher_by_its_name():
    teacher = load_teacher(TeacherSource("camvid_student"))
    assert teacher.labels.names[3] == "road"
    expected = read_bundle(find_model("camvid_student")).network.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in teacher.network.state_dict().items())


def test_a_bundle_of_another_architecture_is_named(tmp_path, tiny_bundle):
    with pytest.raises(TrainedError, match="tiny"):
        load_teacher(TeacherSource(str(tiny_bundle.path)))


def test_a_name_that_is_nowhere_lists_what_could_be_meant():
    with pytest.raises(TrainedError, match=r"camvid_lite0.*\.ckpt.*hub name"):
        load_teacher(TeacherSource("no_such_teacher"))


def test_a_published_teacher_that_cannot_be_fetched_is_named(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(TrainedError, match="smp-hub/segformer-b2-1024x1024-city-160k: could not be fetched"):
        load_teacher(TeacherSource("smp-hub/segformer-b2-1024x1024-city-160k"))


def test_a_published_teacher_is_one_that_the_library_saved(tmp_path, monkeypatch):
    """The hub's files, by their layout, from a folder: the library reads both alike."""
    import segmentation_models_pytorch as smp

    smp.Segformer("mit_b0", encoder_weights=None, classes=11).save_pretrained(tmp_path / "owner" / "name")
    monkeypatch.chdir(tmp_path)
    from training import teachers

    network = teachers._published("owner/name")
    teacher = teachers.Teacher(network, teachers._spec_of(network), None)
    assert (teacher.spec.architecture, teacher.spec.encoder, teacher.spec.classes) == ("segformer", "mit_b0", 11)
    assert teacher(IMAGES).logits.shape == (1, 11, 64, 96)


def test_classes_that_differ_are_refused(random_teacher):
    teacher = TeacherSource(str(random_teacher("mit_b1")))
    with pytest.raises(ClassTableError, match=r"11 classes; model\.labels has 19"):
        SegmentationModule(labels="cityscapes", distiller=ResponseKD(), teacher=teacher)


@pytest.mark.parametrize("method", [TransKD, KnowledgeReview, KnowledgeAdaptation])
def test_a_method_that_compares_no_logits_takes_a_teacher_of_other_classes(method, random_teacher):
    teacher = TeacherSource(str(random_teacher("mit_b1")))
    module = SegmentationModule(labels="cityscapes", distiller=method(), teacher=teacher)
    images, labels = IMAGES.repeat(2, 1, 1, 1), torch.zeros(2, 64, 96, dtype=torch.uint8)
    assert all(loss.isfinite() for loss in module.losses(images, labels).values())


@pytest.mark.parametrize("method", [ResponseKD, CWD, C2VKD])
def test_a_method_that_compares_logits_takes_no_teacher_of_other_classes(method):
    assert method().needs_classes


@pytest.mark.parametrize(
    ("distiller", "fits"),
    [
        (ResponseKD(), True),
        (CWD(), True),
        (C2VKD(visual_weight=0, linguistic_weight=0), True),
        (C2VKD(visual_weight=0), False),
        (KnowledgeReview(), False),
        (KnowledgeAdaptation(), False),
        (TransKD(), False),
        (SpiritDistillation(), False),
    ],
    ids=lambda it: type(it).__name__,
)
def test_a_teacher_without_stages_is_refused_by_methods_that_read_them(distiller, fits):
    student, soft_labels = Widths(11, (32, 64, 160, 256), (32, 64, 160, 256)), Widths(11, (), ())
    if fits:
        return check_fit(distiller, student, soft_labels)
    with pytest.raises(DistillerError, match=rf"{type(distiller).__name__} reads stage maps.*ResponseKD, CWD, C2VKD"):
        check_fit(distiller, student, soft_labels)


def test_a_method_that_needs_patch_embeddings_refuses_a_cnn_and_names_those_that_fit():
    with pytest.raises(DistillerError, match=r"TransKD aligns patch embeddings.*ResponseKD"):
        SegmentationModule(distiller=TransKD(), teacher=TeacherSource("camvid_lite0"))


def test_a_teacher_is_not_saved_with_the_student(random_teacher):
    module = SegmentationModule(distiller=TransKD(), teacher=TeacherSource(str(random_teacher("mit_b1"))))
    assert not any("teacher" in name for name in module.state_dict())
