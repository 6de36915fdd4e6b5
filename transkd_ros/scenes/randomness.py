"""Where all randomness comes from: a generator for each thing of a drive, and smooth noise.

Each thing draws from a generator of its own, so that a frame does not depend on which frames came before it.
"""

from collections.abc import Iterator, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

SIGHT = 100.0  # metres ahead of the camera within which things are drawn


class Seeds:
    """The generators of one drive.

    The first number of a key tells kinds of things apart: up to 9 what a drive or a frame has once, about 10 the plots,
    about 20 the furniture, from 30 the cars, from 40 the walkers, from 50 the cyclists.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def generator(self, *key: int) -> np.random.Generator:
        """The generator for the thing that `key` names."""
        # Seeds must be natural numbers: those from 0 up become odd ones, negative ones even ones.
        return np.random.default_rng([self._seed, *(2 * k + 1 if k >= 0 else -2 * k for k in key)])

    def cells(
        self, eye_z: float, length: float, stream: int, start: float = 0.0
    ) -> Iterator[tuple[float, np.random.Generator]]:
        """Where the cells of one row along the street begin, each with its own generator: those in sight of `eye_z`.

        A row is cut into cells of `length` metres and numbered by `stream`. It begins at `start`, which may move:
        so one rule serves houses and traffic alike.
        """
        first = int(np.floor((eye_z - start) / length)) - 1
        for k in range(first, first + int(SIGHT / length) + 2):
            yield start + k * length, self.generator(stream, k)


def smooth_noise(rng: np.random.Generator, height: int, width: int, grids: Sequence[int]) -> NDArray[np.float32]:
    """Noise (height, width) of zero mean and unit deviation: a sum of grids of n x n values, n coarse to fine."""
    total = np.zeros((height, width), np.float32)
    for octave, n in enumerate(grids):
        grid = rng.standard_normal((n, n)).astype(np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * 0.6**octave
    return (total - total.mean()) / (total.std() + 1e-6)
