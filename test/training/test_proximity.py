"""Images of a proximity domain, without labels: their share of an epoch, their order, and what is refused."""

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training wing needs torch")
L = pytest.importorskip("lightning")

from training.data import loading  # noqa: E402
from training.data.camvid import CamVid  # noqa: E402
from training.data.loading import MixedSampler, SeededSampler  # noqa: E402
from training.module import SegmentationModule  # noqa: E402
from transkd_ros.bags.image_folder import ImageFolderError  # noqa: E402

pytestmark = pytest.mark.training


def drawn(epoch, seed=3, length=10, near=4, ratio=0.6, epochs=2):
    sampler = MixedSampler(length, seed, near, ratio, epochs)
    sampler.set_epoch(epoch)
    return list(sampler)


def indices(*args, **kwargs):
    return [index for index, _ in drawn(*args, **kwargs)]


def test_an_epoch_without_labels_keeps_its_length_and_gives_the_share_to_proximity_images():
    epoch = indices(0)
    own, near = [i for i in epoch if i < 10], [i for i in epoch if i >= 10]
    assert (len(own), len(set(own)), len(near)) == (4, 4, 6)
    assert sorted(near.count(i) for i in range(10, 14)) == [1, 1, 2, 2]  # six places for four images
    assert epoch != own + near


def test_few_places_are_for_different_proximity_images_every_epoch():
    epochs = [tuple(i for i in indices(epoch, near=1000, ratio=0.2, epochs=9) if i >= 10) for epoch in range(9)]
    assert all(len(set(near)) == 2 and max(near) < 1010 for near in epochs)
    assert len(set(epochs)) == 9


def test_a_ratio_of_one_leaves_no_training_image():
    assert min(indices(0, ratio=1.0)) == 10


@pytest.mark.parametrize("epoch", [2, 3])
def test_epochs_with_labels_are_those_of_a_run_without_proximity_images(epoch):
    plain = SeededSampler(10, seed=3)
    plain.set_epoch(epoch)
    assert drawn(epoch) == list(plain)


def test_the_order_depends_on_seed_and_epoch_alone():
    assert drawn(0) == drawn(0)
    assert len({tuple(drawn(epoch, seed)) for epoch in (0, 1) for seed in (3, 4)}) == 4


def test_two_processes_see_together_batch_by_batch_what_one_with_their_whole_batch_sees(monkeypatch):
    def batches(rank, processes, size):
        monkeypatch.setattr(loading, "process", lambda: (rank, processes))
        samples = drawn(1, length=24)
        return [set(samples[start : start + size]) for start in range(0, len(samples), size)]

    together = [a | b for a, b in zip(batches(0, 2, 3), batches(1, 2, 3), strict=True)]
    assert together == batches(0, 1, 6)
    assert sum(index >= 24 for batch in together for index, _ in batch) == 14  # round(0.6 · 24)


@pytest.fixture
def folder(tmp_path):
    """Three grey images, of another size than the training images, which are never of one colour."""
    path = tmp_path / "near"
    path.mkdir()
    for i in range(3):
        cv2.imwrite(str(path / f"{i}.jpg"), np.full((70, 110, 3), 128, np.uint8))
    return path


def data_of(tree, proximity, **options):
    options = {"crop": (64, 64), "photometric": 0, "batch_size": 2, "workers": 0, **options}
    return CamVid(str(tree), proximity=proximity if isinstance(proximity, int) else str(proximity), **options)


def test_proximity_images_are_unlabelled_and_come_in_phases_without_labels_only(shared_scene_tree, folder):
    data = data_of(shared_scene_tree, folder, limit=4, scenes=4, proximity_ratio=0.25)
    data.unlabelled_epochs = 1
    data.setup("fit")
    loader = data.train_dataloader()

    def epoch(number):
        loader.sampler.set_epoch(number)
        batches = list(loader)
        return torch.cat([images for images, _ in batches]), torch.cat([labels for _, labels in batches])

    images, labels = epoch(0)
    assert images.shape == (8, 3, 64, 64)  # four images, four rendered scenes: as without proximity
    near = (images == 128).flatten(1).all(1)
    assert near.sum() == 2
    assert torch.equal((labels == 255).flatten(1).all(1), near)
    images, labels = epoch(1)
    assert not (images == 128).flatten(1).all(1).any()
    assert not (labels == 255).flatten(1).all(1).any()


def test_a_number_of_rendered_scenes_is_a_proximity_domain(shared_scene_tree):
    data = data_of(shared_scene_tree, 3, limit=4, scenes=0)
    data.unlabelled_epochs = 1
    data.setup("fit")
    assert len(data.proximity_set) == 3
    assert sum(len(images) for images, _ in data.train_dataloader()) == 4
    with pytest.raises(ImageFolderError, match="proximity is 0 rendered scenes, not 1 or more"):
        data_of(shared_scene_tree, 0).setup("fit")


@pytest.mark.parametrize("ratio", [0.0, -0.5, 1.5, float("nan")])
def test_a_ratio_that_is_no_share_is_refused(shared_scene_tree, folder, ratio):
    with pytest.raises(ImageFolderError, match=r"proximity_ratio is .*, not in \(0, 1\]"):
        data_of(shared_scene_tree, folder, proximity_ratio=ratio).setup("fit")


def test_a_folder_that_is_missing_or_empty_is_refused_in_one_line(shared_scene_tree, tmp_path):
    with pytest.raises(ImageFolderError, match=r"^data\.init_args\.proximity: .*nowhere: no such folder$"):
        data_of(shared_scene_tree, tmp_path / "nowhere").setup("fit")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageFolderError, match=r"^data\.init_args\.proximity: .*empty: holds no images"):
        data_of(shared_scene_tree, tmp_path / "empty").setup("fit")


def test_a_broken_proximity_image_is_found_before_training(shared_scene_tree, folder):
    (folder / "1.jpg").write_bytes(b"no image")
    with pytest.raises(ImageFolderError, match=r"1\.jpg: not an image"):
        data_of(shared_scene_tree, folder).setup("fit")


def test_a_run_without_a_phase_without_labels_refuses_proximity_images(shared_scene_tree, folder, tmp_path):
    trainer = L.Trainer(fast_dev_run=1, accelerator="cpu", enable_progress_bar=False, enable_model_summary=False)
    with pytest.raises(ImageFolderError, match=r"proximity: .*no phase without labels.*SpiritDistillation"):
        trainer.fit(SegmentationModule(), data_of(shared_scene_tree, folder, scenes=0))
