"""How far a teacher is trusted, what a committee disagrees about, and weights that a student starts from."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training wing needs torch")

from training.committee import Committee, _disagreement  # noqa: E402
from training.distillers import DistillerError, ResponseKD  # noqa: E402
from training.module import ClassTableError, SegmentationModule  # noqa: E402
from training.soft_labels import SoftLabels, frame_hash  # noqa: E402
from training.taps import Taps  # noqa: E402
from training.teachers import TeacherSource, load_teacher  # noqa: E402
from training.trained import TrainedError, read_bundle  # noqa: E402
from transkd_ros.resources import find_model  # noqa: E402

pytestmark = pytest.mark.training


def taps(probabilities):
    """Of (classes,) probabilities at each of some pixels, as a stored teacher shows them."""
    logits = torch.tensor(probabilities).T[None, :, None].log()
    return Taps(logits, logits, (), ())


def test_pixels_where_the_teacher_is_unsure_do_not_count():
    student, teacher = taps([[0.5, 0.5], [0.5, 0.5]]), taps([[0.99, 0.01], [0.55, 0.45]])
    labels = torch.full((1, 1, 2), 255)

    def loss(trust, shown=teacher):
        return ResponseKD(temperature=1, weight=1, trust=trust)(student, shown, labels)["response"].item()

    sure = 0.99 * np.log(0.99 / 0.5) + 0.01 * np.log(0.01 / 0.5)
    unsure = 0.55 * np.log(0.55 / 0.5) + 0.45 * np.log(0.45 / 0.5)
    assert loss(0.0) == pytest.approx((sure + unsure) / 2, rel=1e-4)
    assert loss(0.9) == pytest.approx(sure, rel=1e-4)
    assert loss(0.995) == 0.0  # nobody is so sure: nothing is learnt, and nothing divided by zero


def test_a_trust_that_is_no_share_is_refused():
    with pytest.raises(DistillerError, match="trust is 1"):
        ResponseKD(trust=1.0)


def test_disagreement_is_none_between_equals_and_all_between_opposites():
    one, other = torch.tensor([1.0, 0.0]).view(2, 1, 1), torch.tensor([0.0, 1.0]).view(2, 1, 1)
    assert _disagreement(torch.stack([one])) == 0.0
    assert _disagreement(torch.stack([one, one])) == pytest.approx(0.0)
    assert _disagreement(torch.stack([one, other])) == pytest.approx(1.0)
    half = _disagreement(torch.stack([torch.stack([one, one], -1), torch.stack([one, other], -1)]).flatten(-2))
    assert half == pytest.approx(0.5)


def test_a_store_keeps_how_much_its_committee_disagreed(random_teacher, tmp_path):
    members = [load_teacher(TeacherSource(str(random_teacher(encoder)))) for encoder in ("mit_b0", "mit_b1")]
    committee = Committee(members, (64, 96))
    image = np.random.default_rng(0).integers(256, size=(64, 96, 3), dtype=np.uint8)
    probabilities, disagreement = committee.ask(image, (16, 24))
    store = SoftLabels.create(tmp_path / "store", committee.described([None, None], 4))
    store.add(image, probabilities, disagreement)
    assert disagreement > 0 and store.disagreement(frame_hash(image)) == pytest.approx(disagreement, abs=1e-6)
    np.testing.assert_array_equal(store.at(frame_hash(image)), store.of(image))


LITE0 = {"architecture": "segformer", "encoder": "tu-tf_efficientnet_lite0"}


def test_a_student_starts_from_the_weights_of_a_bundle():
    started = SegmentationModule(**LITE0, initial_weights="camvid_lite0").network.state_dict()
    expected = read_bundle(find_model("camvid_lite0")).network.state_dict()
    assert all(torch.equal(value, started[name]) for name, value in expected.items())


def test_initial_weights_of_another_network_other_classes_or_nowhere_are_named():
    with pytest.raises(TrainedError, match=r"camvid_lite0 is a segformer tu-tf_efficientnet_lite0; model is a seg.*b0"):
        SegmentationModule(initial_weights="camvid_lite0")
    with pytest.raises(ClassTableError, match=r"initial_weights camvid_lite0: 11 classes; model\.labels has 19"):
        SegmentationModule(**LITE0, labels="cityscapes", initial_weights="camvid_lite0")
    with pytest.raises(TrainedError, match=r"no model 'nobody'.*\.ckpt"):
        SegmentationModule(initial_weights="nobody")
