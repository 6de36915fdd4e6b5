"""What every data set shares: augmentation, choice of samples, loaders. The layout is in a data set's own file."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from torch.utils.data import ConcatDataset, Dataset, Subset

from training.data.extraction import FramesError, Unlabelled, extract, part_of
from training.data.loading import Loader, MixedSampler, SeededSampler, process, share, single_threaded
from training.data.samples import CHECKED, Samples, UnlabelledImages, spread
from training.data.scenes import RenderedScenes
from training.data.transforms import Augmented, Resized, augmentation
from training.sizes import ImageSize
from training.soft_labels import SoftLabels
from transkd_ros.bags.image_folder import ImageFolderError, list_images
from transkd_ros.model.labels import LabelTable

Split = Literal["train", "val"]


class SegmentationData(L.LightningDataModule, ABC):
    """Training and validation samples of a data set; a subclass names its class table and finds its files.

    Training batches are images (batch_size, 3, h, w) uint8 and labels (batch_size, h, w) uint8, 255 where there is no
    class, equal for equal seed, epoch and sample. `crop` (h, w), `zoom`, `scale`, `shift` and `photometric` are those
    of `transforms.augmentation`. Validation: one image resized to `val_size` (h, w) with labels of the original size;
    with `val_keep_aspect`, to the largest size of its own aspect ratio within that.

    `batch_size` is that of one process. `limit` trains on so many of the labelled images only, drawn by `seed`; a
    smaller limit draws a part of a larger one's. `workers` processes read ahead, for training and validation each.

    `proximity` is a folder of images without labels, of a domain near this one, or a number of rendered scenes. In the
    phases of a method that read no labels, a share `proximity_ratio` of an epoch's samples comes from there, in place
    of as many training images.

    `unlabelled` are frames without labels of the domain itself, mixed into all epochs: the teacher says what they hold.
    """

    labels: str
    """The name of the class table in config/labels, or the path of one."""
    unlabelled_epochs = 0
    """How many epochs pass before labels are read. The training loop says so before it asks for loaders."""
    soft_labels: SoftLabels | None = None
    """What a stored teacher says of the training images: the third part of a batch."""

    def __init__(
        self,
        root: str | None,
        crop: ImageSize = ImageSize(256, 320),
        zoom: tuple[float, float] = (0.15, 1.0),
        scale: tuple[float, float] | None = None,
        shift: int = 0,
        photometric: float = 0.5,
        val_size: ImageSize = ImageSize(384, 512),
        val_keep_aspect: bool = False,
        batch_size: int = 8,
        limit: int | None = None,
        seed: int = 1,
        workers: int = 1,
        proximity: int | str | None = None,
        proximity_ratio: float = 0.5,
        unlabelled: Unlabelled | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=["crop", "val_size", "unlabelled"])  # a checkpoint holds plain values
        self.crop, self.val_size = crop, val_size
        self.unlabelled = Unlabelled(**unlabelled) if isinstance(unlabelled, dict) else unlabelled

    @property
    def classes(self) -> int:
        return len(LabelTable.load(self.labels).names)

    @abstractmethod
    def split(self, name: Split) -> Samples:
        """The samples of a split; ImageFolderError says what is missing where."""

    def setup(self, stage: str) -> None:
        """Find and check the data. Raises ImageFolderError for what is missing or cannot be used."""
        train, self.val_set = self.split("train"), self.split("val")
        for samples in (train, self.val_set):
            samples.check()
        self.train_set: Dataset = self._limited(train)
        self.proximity_set = self._proximity()
        self.unlabelled_set = self._unlabelled_samples()

    def _limited(self, samples: Samples) -> Dataset:
        limit, count = self.hparams["limit"], len(samples)
        if limit is None:
            return samples
        if not 1 <= limit <= count:
            raise ImageFolderError(f"data.init_args.limit is {limit}; the training split holds {count} images")
        return Subset(samples, np.random.default_rng(self.hparams["seed"]).permutation(count)[:limit].tolist())

    def _proximity(self) -> Samples | None:
        hp: Any = self.hparams
        if not 0 < hp.proximity_ratio <= 1:
            raise ImageFolderError(f"data.init_args.proximity_ratio is {hp.proximity_ratio}, not in (0, 1]")
        if hp.proximity is None:
            return None
        if isinstance(hp.proximity, int):
            if hp.proximity < 1:
                raise ImageFolderError(f"data.init_args.proximity is {hp.proximity} rendered scenes, not 1 or more")
            return RenderedScenes(hp.proximity)
        try:
            images = UnlabelledImages(list_images(Path(hp.proximity)))
            images.check()
        except ImageFolderError as error:
            raise ImageFolderError(f"data.init_args.proximity: {error}") from error
        return images

    def _unlabelled_samples(self) -> UnlabelledImages | None:
        if self.unlabelled is None:
            return None
        if self.hparams["proximity"] is not None:
            raise FramesError("data.init_args: give proximity or unlabelled, not both")
        frames = part_of(extract(self.unlabelled), self.unlabelled.part)
        if not frames:
            raise FramesError(f"data.init_args.unlabelled: no frame in the part {self.unlabelled.part} of its drives")
        return UnlabelledImages([frame.path for frame in frames])

    @property
    def frames(self) -> Dataset:
        """All that soft labels have to be of: the training images, and the frames without labels."""
        return self.train_set if self.unlabelled_set is None else ConcatDataset([self.train_set, self.unlabelled_set])

    def use_soft_labels(self, store: SoftLabels) -> None:
        """Give every training sample its soft labels. Raises SoftLabelError where some of CHECKED samples have none."""
        samples: Any = self.frames
        store.check(samples[index][0] for index in spread(len(samples), CHECKED))
        self.soft_labels = store

    def train_dataloader(self) -> Loader:
        hp: Any = self.hparams
        count: int = len(self.train_set)  # type: ignore[arg-type]
        _, processes = process()
        if count < hp.batch_size * processes:
            raise ImageFolderError(
                f"{count} training images do not fill a batch: data.init_args.batch_size is {hp.batch_size} "
                f"for each of {processes} processes"
            )
        transform = augmentation(self.crop, tuple(hp.zoom), hp.scale and tuple(hp.scale), hp.shift, hp.photometric)
        samples, order = self._mixed(count)
        augmented = Augmented(samples, transform, self.soft_labels)
        return self._loader(augmented, order, batch_size=hp.batch_size, drop_last=True)

    def _mixed(self, count: int) -> tuple[Dataset, SeededSampler]:
        """The `count` training samples and, behind them, those without labels; and the order of an epoch."""
        hp: Any = self.hparams
        if self.unlabelled is not None and self.unlabelled_set is not None:
            order = MixedSampler(count, hp.seed, len(self.unlabelled_set), self.unlabelled.ratio)
            return ConcatDataset([self.train_set, self.unlabelled_set]), order
        if self.proximity_set is None:
            return self.train_set, SeededSampler(count, hp.seed)
        if not self.unlabelled_epochs:
            raise ImageFolderError(
                "data.init_args.proximity: its images have no labels, and this run has no phase without labels; leave "
                "it out, or choose a method with such a phase, SpiritDistillation"
            )
        near = len(self.proximity_set)
        order = MixedSampler(count, hp.seed, near, hp.proximity_ratio, self.unlabelled_epochs)
        return ConcatDataset([self.train_set, self.proximity_set]), order

    def val_dataloader(self) -> Loader:
        samples = Resized(self.val_set, self.val_size, self.hparams["val_keep_aspect"])
        return self._loader(samples, share(len(samples)), batch_size=1)

    def _loader(self, samples: Dataset, order: Iterable[Any], **options: Any) -> Loader:
        workers = self.hparams["workers"]
        return Loader(
            samples,
            sampler=order,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=single_threaded,
            pin_memory=torch.cuda.is_available(),
            **options,
        )
