"""CamVid's 11 classes, with rendered scenes mixed into the training split."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightning as L
from torch.utils.data import ConcatDataset, DataLoader

from training.data.folder import ImageLabelFolder
from training.data.rendered import RenderedScenes
from training.data.transforms import Augmented, Resized, SeededSampler, augmentation
from transkd_ros.image_folder import ImageFolderError

ROOTS = ("data/camvid", "../shared/data/camvid")


class CamVid(L.LightningDataModule):
    """CamVid train (and `scenes` rendered ones) for training, CamVid val for validation.

    `root` holds `train/` and `val/`, each with `images/` and `labels/`; without it, $CAMVID_ROOT, data/camvid and
    ../shared/data/camvid are looked at. `crop` (H, W) is what the network is trained on, cut from a `zoom` share of an
    image's area; `val_size` (H, W) is what a whole image is resized to for validation. Training batches: images
    (B, 3, h, w) uint8, labels (B, h, w) uint8; validation: one image of val_size with labels of the original size.
    """

    classes = 11

    def __init__(
        self,
        root: str | None = None,
        crop: tuple[int, int] = (256, 320),
        zoom: tuple[float, float] = (0.15, 1.0),
        val_size: tuple[int, int] = (384, 512),
        batch_size: int = 8,
        scenes: int = 48,
        seed: int = 1,
        workers: int = 1,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()

    def setup(self, stage: str) -> None:
        """Find the data; ImageFolderError says what is missing where."""
        hp: Any = self.hparams
        root = find_camvid(hp.root)
        if root is None:
            raise ImageFolderError(
                f"no CamVid (train and val, each with images and labels) at {hp.root or ', '.join(ROOTS)}; "
                "give its folder with --data.init_args.root or $CAMVID_ROOT"
            )
        scenes = [RenderedScenes(hp.scenes)] if hp.scenes else []
        self.train_set: Any = ConcatDataset([self._split(root / "train"), *scenes])
        self.val_set = self._split(root / "val")

    def _split(self, folder: Path) -> ImageLabelFolder:
        return ImageLabelFolder(folder / "images", folder / "labels", self.classes)

    def train_dataloader(self) -> DataLoader:
        hp: Any = self.hparams
        return DataLoader(
            Augmented(self.train_set, augmentation(tuple(hp.crop), tuple(hp.zoom))),
            batch_size=hp.batch_size,
            sampler=SeededSampler(len(self.train_set), hp.seed),
            num_workers=hp.workers,
            persistent_workers=hp.workers > 0,
            drop_last=True,
        )

    def val_dataloader(self) -> DataLoader:
        return DataLoader(Resized(self.val_set, tuple(self.hparams["val_size"])), batch_size=1)


def find_camvid(root: str | None = None) -> Path | None:
    """The folder of CamVid: `root` if given, else the first of $CAMVID_ROOT and ROOTS that holds it; None if none."""
    candidates = [Path(name) for name in ([root] if root else [os.environ.get("CAMVID_ROOT"), *ROOTS]) if name]
    return next((path for path in candidates if (path / "train" / "images").is_dir()), None)
