"""How samples reach the training loop: their order, the share of each process, and the workers that read them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from torch import distributed
from torch.utils.data import DataLoader, Sampler

from transkd_ros.bags.image_folder import ImageFolderError


def process() -> tuple[int, int]:
    """Rank of this process and number of processes that train together: (0, 1) outside distributed training."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def turn() -> tuple[int, int]:
    """Rank of this process and number of processes that prepare data together: also before they are joined."""
    alone = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    return process() if process()[1] > 1 else alone


def share(length: int) -> range:
    """The indices of `length` samples that this process takes: every one is taken once, by one process."""
    rank, processes = process()
    return range(rank, length, processes)


class SeededSampler(Sampler[tuple[int, int]]):
    """A new permutation of `length` samples every epoch, each with a seed of its own for the augmentation.

    Depends on seed and epoch alone, so that a resumed run goes on as an uninterrupted one would have. Processes that
    train together take turns in it: each batch of B of N processes together is the batch of N·B of a single one. All
    draw equally many: the last `length` % N samples of an epoch's order are left out.
    """

    def __init__(self, length: int, seed: int) -> None:
        self.length, self.seed, self.epoch = length, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length // process()[1]

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        seeds = rng.integers(2**31, size=self.length)
        order = self._order(rng)
        turns = share(self.length)[: len(self)]
        return zip(order[turns].tolist(), seeds[turns].tolist(), strict=True)

    def _order(self, rng: np.random.Generator) -> np.ndarray:
        """The indices of an epoch's samples, `length` of them."""
        return rng.permutation(self.length)


class MixedSampler(SeededSampler):
    """A SeededSampler that gives a share of its places, in the first `epochs` epochs or in all, to `further` samples.

    These have the indices from `length` on; `ratio` · `length` of them, rounded, are drawn, each as often as any other
    or once more. An epoch keeps its number of samples: as many of the `length` stand back, others every epoch.
    """

    def __init__(self, length: int, seed: int, further: int, ratio: float, epochs: int | None = None) -> None:
        super().__init__(length, seed)
        self.further, self.drawn, self.epochs = further, round(ratio * length), epochs

    def _order(self, rng: np.random.Generator) -> np.ndarray:
        order = super()._order(rng)
        if self.epochs is not None and self.epoch >= self.epochs:
            return order
        further = self.length + np.resize(rng.permutation(self.further), self.drawn)
        return rng.permutation(np.concatenate([order[self.drawn :], further]))


class Loader(DataLoader):
    """A DataLoader that passes on an ImageFolderError of a worker without the worker's traceback in its text."""

    def __iter__(self) -> Any:
        try:
            yield from super().__iter__()
        except ImageFolderError as error:
            raise ImageFolderError(str(error).rsplit("ImageFolderError: ", 1)[-1].strip()) from None


def single_threaded(worker: int) -> None:
    """For a worker process: OpenCV without threads of its own (torch sees to its own), as workers share the cores."""
    cv2.setNumThreads(0)
