"""Training data: read and checked from disk, mixed with rendered scenes, augmented reproducibly."""

from pathlib import Path

import cv2
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the training wing needs torch")
pytest.importorskip("lightning")
from torchvision import tv_tensors  # noqa: E402
from torchvision.transforms import v2  # noqa: E402

from training.data import loading  # noqa: E402
from training.data.camvid import CamVid, find_camvid  # noqa: E402
from training.data.loading import SeededSampler, share  # noqa: E402
from training.data.rendered import Rendered  # noqa: E402
from training.data.samples import IGNORE, LabelledImages, own_ids  # noqa: E402
from training.data.transforms import Augmented, _positions, augmentation, soft_labels_at  # noqa: E402
from transkd_ros.bags.image_folder import ImageFolderError, list_frames  # noqa: E402

pytestmark = pytest.mark.training
SHARED = Path(__file__).parents[3] / "shared" / "data" / "camvid"


def set_up(*args, **kwargs):
    data = CamVid(*args, **kwargs)
    data.setup("fit")
    return data


@pytest.fixture
def data(shared_scene_tree):
    return set_up(str(shared_scene_tree), crop=(64, 96), val_size=(64, 96), batch_size=2, scenes=3, workers=0)


def test_train_batches_are_crops_and_validation_keeps_the_labels_size(data):
    images, labels = next(iter(data.train_dataloader()))
    assert (images.shape, images.dtype) == ((2, 3, 64, 96), torch.uint8)
    assert (labels.shape, labels.dtype) == ((2, 64, 96), torch.uint8)
    image, label = next(iter(data.val_dataloader()))
    assert image.shape == (1, 3, 64, 96)
    assert label.shape == (1, 96, 128)


def test_rendered_scenes_are_mixed_into_training_and_not_into_validation(data, shared_scene_tree):
    frames = len(list((shared_scene_tree / "train" / "images").iterdir()))
    assert len(data.train_set) == frames + 3
    assert len(data.val_set) == len(list((shared_scene_tree / "val" / "images").iterdir()))


def test_rendered_scenes_are_a_data_set_of_their_own_that_validates_on_other_drives():
    data = Rendered(scenes=3, val_scenes=2, crop=(64, 96), val_size=(64, 96), batch_size=2, workers=0)
    data.setup("fit")
    assert (len(data.train_set), len(data.val_set)) == (3, 2)
    images, labels = next(iter(data.train_dataloader()))
    assert (images.shape, labels.shape) == ((2, 3, 64, 96), (2, 64, 96))
    assert set(labels.unique().tolist()) <= {*range(data.classes), 255}
    scenes = [data.train_set[i] for i in range(3)] + [data.val_set[i] for i in range(2)]
    assert len({image.tobytes() for image, _ in scenes}) == 3 + 2


def test_rendered_scenes_take_turns_in_the_weathers_that_a_recipe_names():
    data = Rendered(scenes=4, val_scenes=2, weathers=["dusk", "clear"], crop=(64, 96), val_size=(64, 96), workers=0)
    data.setup("fit")
    for split in (data.train_set, data.val_set):
        light = [split[i][0].mean() for i in range(len(split))]
        assert max(light[::2]) < min(light[1::2])


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("options", [{"zoom": (0.15, 1.0)}, {"scale": (0.5, 2.0)}], ids=["zoom", "scale"])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_labels_and_soft_labels_lie_where_the_image_does(options, flip, stride):
    """Image, labels and soft labels are one ramp, which stays one wherever it is cut, however large."""
    size = (90, 120)
    ramp = np.broadcast_to(np.arange(size[1]), size)
    image, labels = np.stack([ramp * 2] * 3).astype(np.uint8), ramp.astype(np.uint8)
    stored = np.stack([ramp / size[1], 1 - ramp / size[1]]).astype(np.float32)
    transform = augmentation((64, 96), photometric=0, **options)
    transform.transforms[-1] = v2.RandomHorizontalFlip(float(flip))
    apart = []
    for seed in range(40):
        torch.manual_seed(seed)
        parts = transform(tv_tensors.Image(image), tv_tensors.Mask(labels), tv_tensors.Mask(_positions(size)))
        pixels, cut, positions = (part.as_subclass(torch.Tensor) for part in parts)
        seen = pixels[0].float() / 2
        coarse = torch.nn.functional.avg_pool2d(seen[None], stride)[0]
        soft = soft_labels_at(stored, positions, size, stride)[0] * size[1]
        inside = torch.nn.functional.max_pool2d((cut == IGNORE).float()[None], 5, 1, 2)[0] == 0
        whole = torch.nn.functional.avg_pool2d(inside.float()[None], stride)[0] == 1
        rows, columns = inside.nonzero().unbind(1)
        row = columns[rows == rows.mode().values]
        step = (seen[rows.mode().values, row.max()] - seen[rows.mode().values, row.min()]) / (row.max() - row.min())
        beside = [(seen - cut.float())[inside].mean() / step, (coarse - soft)[whole].mean() / step]
        apart.append(torch.stack(beside))
    assert torch.stack(apart).mean(0).abs().max() < 0.1  # pixels of the crop


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


def work_as(monkeypatch, rank, processes):
    monkeypatch.setattr(loading, "process", lambda: (rank, processes))


@pytest.mark.parametrize(("length", "processes", "batch"), [(23, 2, 3), (24, 2, 4), (23, 4, 1), (17, 3, 2)])
def test_processes_see_together_batch_by_batch_what_one_with_their_whole_batch_sees(
    monkeypatch, length, processes, batch
):
    def batches(rank, of, size):
        work_as(monkeypatch, rank, of)
        sampler = SeededSampler(length, seed=3)
        sampler.set_epoch(2)
        drawn = list(sampler)
        assert len(drawn) == len(sampler)
        return [set(drawn[start : start + size]) for start in range(0, len(drawn) - size + 1, size)]

    alone = batches(0, 1, processes * batch)
    ranks = [batches(rank, processes, batch) for rank in range(processes)]
    together = [set().union(*parts) for parts in zip(*ranks, strict=True)]
    assert together == alone


def test_validation_is_shared_out_without_a_sample_repeated(monkeypatch):
    shares = []
    for rank in range(3):
        work_as(monkeypatch, rank, 3)
        shares.extend(share(8))
    assert sorted(shares) == list(range(8))


def test_a_limit_draws_a_fixed_part_of_the_training_images_and_leaves_validation_alone(shared_scene_tree):
    def names(**options):
        data = set_up(str(shared_scene_tree), scenes=0, **options)
        assert len(data.val_set) == 3
        return [data.train_set.dataset.pairs[index].image.name for index in data.train_set.indices]

    assert len(names(limit=3)) == 3
    assert names(limit=3) == names(limit=3)
    assert set(names(limit=2)) < set(names(limit=3))
    assert {tuple(names(limit=3, seed=seed)) for seed in range(5)} != {tuple(names(limit=3))}


@pytest.mark.parametrize("limit", [0, 6])
def test_a_limit_that_the_data_set_cannot_meet_is_refused(shared_scene_tree, limit):
    with pytest.raises(ImageFolderError, match=f"limit is {limit}.*5 images"):
        set_up(str(shared_scene_tree), limit=limit)


def test_too_few_images_for_a_batch_are_refused_before_training(shared_scene_tree):
    data = set_up(str(shared_scene_tree), scenes=0, batch_size=6)
    with pytest.raises(ImageFolderError, match=r"5 training images.*batch_size is 6"):
        data.train_dataloader()


def test_default_images_are_cut_flipped_and_jittered_as_committed_runs_saw_them(data):
    index, seed = 1, 1234
    image, _ = data.train_set[index]
    before = v2.Compose(
        [
            v2.RandomResizedCrop((64, 96), scale=(0.15, 1.0), ratio=(1.5 / 1.15, 1.5 * 1.15), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomPhotometricDistort(p=0.5),
        ]
    )
    torch.manual_seed(seed)
    expected = before(tv_tensors.Image(image.transpose(2, 0, 1).copy()))
    assert torch.equal(data.train_dataloader().dataset[index, seed][0], expected)


AUGMENTATIONS = {
    "zoom": {"zoom": (0.3, 1.0)},
    "zoom and shift": {"zoom": (0.3, 1.0), "shift": 5},
    "scale up": {"scale": (1.0, 2.0)},
    "scale down": {"scale": (0.5, 0.9)},
    "whole, shifted": {"scale": (1.0, 1.0), "shift": 5},
}


@pytest.mark.parametrize("options", AUGMENTATIONS.values(), ids=AUGMENTATIONS.keys())
def test_augmentation_moves_image_and_labels_together_and_ignores_what_lies_outside(options):
    labels = np.ones((96, 128), np.uint8)
    labels[20:70, 30:90] = 3
    image = np.repeat(np.choose(labels, (0, 60, 0, 220))[..., None].astype(np.uint8), 3, axis=2)
    transform = augmentation((64, 96), photometric=0, **options)
    for seed in range(5):
        pixels, ids = Augmented([(image, labels)], transform)[0, seed]
        assert (pixels.shape, ids.shape) == ((3, 64, 96), (64, 96))
        assert set(ids.unique().tolist()) <= {1, 3, 255}
        seen = torch.full_like(ids, 1)
        seen[pixels[0] > 140] = 3
        seen[pixels[0] < 30] = 255
        assert (seen == ids).float().mean() > 0.97


def test_scale_one_is_the_whole_image_and_a_shift_moves_it_by_so_many_pixels_at_most():
    ramp = np.repeat(np.arange(128, dtype=np.uint8)[None] + 1, 64, axis=0)
    source = [(np.repeat(ramp[..., None], 3, axis=2), ramp)]
    whole = augmentation((64, 128), scale=(1.0, 1.0), photometric=0)
    shifted = augmentation((64, 128), scale=(1.0, 1.0), shift=4, photometric=0)
    columns = set()
    for seed in range(30):
        ids = Augmented(source, whole)[0, seed][1]
        assert torch.equal(ids, torch.from_numpy(ramp)) or torch.equal(ids, torch.from_numpy(ramp).flip(1))
        moved = Augmented(source, shifted)[0, seed][1]
        columns.add(abs(moved[32, 64].item() - (65 if moved[32, 70] > moved[32, 64] else 64)))
    assert columns == set(range(5))


def test_label_ids_outside_the_table_are_refused_with_the_file(scene_tree):
    label = next((scene_tree / "val" / "labels").iterdir())
    cv2.imwrite(str(label), np.full((96, 128), 77, np.uint8))
    pairs = list_frames(scene_tree / "val" / "images", scene_tree / "val" / "labels")
    samples = LabelledImages(pairs, own_ids(11))
    with pytest.raises(ImageFolderError, match=rf"{label.name}.*77"):
        [samples[index] for index in range(len(samples))]


def test_a_large_split_is_checked_at_the_start_in_part_from_first_to_last(shared_scene_tree, monkeypatch):
    pairs = list_frames(shared_scene_tree / "train" / "images", shared_scene_tree / "train" / "labels")
    samples = LabelledImages(pairs, own_ids(11))
    read = []
    monkeypatch.setattr(samples, "_read_labels", lambda index, size: read.append((index, size)))
    samples.check(most=3)
    assert read == [(0, (96, 128)), (2, (96, 128)), (4, (96, 128))]


def test_only_a_data_set_that_says_so_is_kept_in_memory(shared_scene_tree):
    pairs = list_frames(shared_scene_tree / "val" / "images", shared_scene_tree / "val" / "labels")
    for keep in (True, False):
        samples = LabelledImages(pairs, own_ids(11), keep=keep)
        assert (samples[0] is samples[0]) == keep


class Threads(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        return cv2.getNumThreads(), torch.get_num_threads()


def test_workers_give_the_same_samples_and_take_one_thread_each(shared_scene_tree):
    def first_batch(workers):
        data = set_up(str(shared_scene_tree), crop=(64, 96), scenes=0, batch_size=4, workers=workers)
        loader = data.train_dataloader()
        return loader, next(iter(loader))

    _, (images, labels) = first_batch(0)
    loader, batch = first_batch(2)
    assert torch.equal(batch[0], images)
    assert torch.equal(batch[1], labels)
    assert loader.persistent_workers
    (threads,) = loading.Loader(Threads(), num_workers=1, worker_init_fn=loader.worker_init_fn)
    assert [count.item() for count in threads] == [1, 1]


@pytest.mark.slow
def test_an_error_in_a_worker_reads_as_one_line_that_names_the_file(scene_tree):
    data = set_up(str(scene_tree), batch_size=1, workers=1)
    label = data.val_set.pairs[-1].label  # damaged after the check at the start
    cv2.imwrite(str(label), np.full((96, 128), 77, np.uint8))
    with pytest.raises(ImageFolderError) as caught:
        list(data.val_dataloader())
    assert str(caught.value).startswith(f"{label}: unknown class ids [77]")
    assert "\n" not in str(caught.value)


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
