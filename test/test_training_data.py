"""Training data: read and checked from disk, mixed with rendered scenes, augmented reproducibly."""

from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training wing needs torch")
pytest.importorskip("lightning")

from training.data.camvid import CamVid, find_camvid  # noqa: E402
from training.data.folder import ImageLabelFolder  # noqa: E402
from training.data.transforms import Augmented, SeededSampler, augmentation  # noqa: E402
from transkd_ros.image_folder import ImageFolderError  # noqa: E402

pytestmark = pytest.mark.training
SHARED = Path(__file__).parents[2] / "shared" / "data" / "camvid"


def set_up(*args, **kwargs):
    data = CamVid(*args, **kwargs)
    data.setup("fit")
    return data


@pytest.fixture
def data(scene_tree):
    return set_up(str(scene_tree), crop=(64, 96), val_size=(64, 96), batch_size=2, scenes=3, workers=0)


def test_train_batches_are_crops_and_validation_keeps_the_labels_size(data):
    images, labels = next(iter(data.train_dataloader()))
    assert (images.shape, images.dtype) == ((2, 3, 64, 96), torch.uint8)
    assert (labels.shape, labels.dtype) == ((2, 64, 96), torch.uint8)
    image, label = next(iter(data.val_dataloader()))
    assert image.shape == (1, 3, 64, 96)
    assert label.shape == (1, 96, 128)


def test_rendered_scenes_are_mixed_into_training_and_not_into_validation(data, scene_tree):
    frames = len(list((scene_tree / "train" / "images").iterdir()))
    assert len(data.train_set) == frames + 3
    assert len(data.val_set) == len(list((scene_tree / "val" / "images").iterdir()))


def test_an_epoch_is_the_same_however_often_and_different_from_the_next(data):
    loader = data.train_dataloader()

    def epoch(number):
        loader.sampler.set_epoch(number)
        torch.rand(number + 1)  # the global generator must not matter
        return torch.cat([images for images, _ in loader])

    first = epoch(0)
    assert torch.equal(first, epoch(0))
    assert not torch.equal(first, epoch(1))


def test_every_sample_is_drawn_once_an_epoch():
    sampler = SeededSampler(10, seed=3)
    assert sorted(index for index, _ in sampler) == list(range(10))
    assert len({seed for _, seed in sampler}) > 1


def test_augmentation_moves_image_and_labels_together():
    labels = np.zeros((96, 128), np.uint8)
    labels[20:70, 30:90] = 3
    image = np.repeat((labels == 3)[..., None].astype(np.uint8) * 200 + 20, 3, axis=2)
    geometry = augmentation((64, 96), (0.3, 1.0))
    geometry.transforms.pop()  # the photometric jitter changes what the check looks at
    for seed in range(5):
        pixels, ids = Augmented([(image, labels)], geometry)[0, seed]
        assert ((pixels[0] > 120) == (ids == 3)).float().mean() > 0.97
        assert set(ids.unique().tolist()) <= {0, 3}


def test_label_ids_outside_the_table_are_refused_with_the_file(scene_tree):
    label = next((scene_tree / "val" / "labels").iterdir())
    cv2.imwrite(str(label), np.full((96, 128), 77, np.uint8))
    folder = ImageLabelFolder(scene_tree / "val" / "images", scene_tree / "val" / "labels", classes=11)
    with pytest.raises(ImageFolderError, match=rf"{label.name}.*77"):
        [folder[index] for index in range(len(folder))]


def test_an_image_without_labels_is_refused_before_training(scene_tree):
    label = next((scene_tree / "train" / "labels").iterdir())
    label.unlink()
    with pytest.raises(ImageFolderError, match=label.stem):
        set_up(str(scene_tree))


def test_a_missing_data_set_says_where_it_was_looked_for_and_how_to_give_it(tmp_path):
    with pytest.raises(ImageFolderError, match=rf"{tmp_path}.*--data.init_args.root"):
        set_up(str(tmp_path))


@pytest.mark.skipif(not SHARED.is_dir(), reason="CamVid is not beside this checkout")
def test_camvid_has_its_published_split_and_known_ids_only():
    data = set_up(str(SHARED), scenes=0)
    assert (len(data.train_set), len(data.val_set)) == (367, 101)
    assert find_camvid(str(SHARED)) == SHARED
    for index in range(0, 101, 10):
        image, labels = data.val_set[index]
        assert image.shape == (360, 480, 3)
        assert set(np.unique(labels)) <= {*range(11), 255}
