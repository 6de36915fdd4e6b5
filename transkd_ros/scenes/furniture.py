"""Street furniture along the kerbs: lamp posts, bollards, signs, signals and street trees."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from transkd_ros.scenes.palette import POLE, SIGN
from transkd_ros.scenes.randomness import Seeds
from transkd_ros.scenes.street import LEFT, OUTWARD, RIGHT, Street
from transkd_ros.scenes.trees import Sprite, tree
from transkd_ros.scenes.view import DISC, Thing, View

_TRIANGLE = np.array([(np.sin(a), np.cos(a)) for a in np.arange(3) * 2 * np.pi / 3])
_SQUARE = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
_LIGHTS = {0.34: (230, 40, 30), 0.0: (220, 150, 30), -0.34: (40, 220, 130)}  # height in the signal: colour


def furniture(view: View, street: Street, seeds: Seeds, trees: list[Sprite]) -> Iterator[Thing]:
    """What stands along both kerbs."""
    for side in (LEFT, RIGHT):
        outward = OUTWARD[side]
        x = outward * (street.kerb[side] + 0.45)
        for z, rng in seeds.cells(view.eye[2], 9.0, stream=20 + outward):
            if not view.sees(x, z + 4, 6):
                continue
            spot, roll = z + rng.uniform(0, 4), rng.random()
            if roll < 0.3:
                tall, grey = rng.uniform(5.5, 9), rng.uniform(60, 140)
                yield spot, partial(_post, view, x, spot, tall, 0.09, grey, -1.4 * outward)
            elif roll < 0.7:
                yield spot, partial(_sign, view, x, spot, rng)
            elif roll < 0.8:
                yield spot, partial(_post, view, x, spot, 1.0, 0.07, 50)
            if rng.random() < street.leafy * 0.5:
                yield tree(view, trees, x + outward * 0.3, z + rng.uniform(5, 8), rng, 0.9)


def _post(view: View, x: float, z: float, height: float, half: float, grey: float, arm: float = 0.0) -> None:
    """An upright pole, with a lamp arm reaching `arm` metres sideways."""
    pole = [(-half, 0), (half, 0), (half * 0.7, height), (-half * 0.7, height)]
    view.card(pole, (x, 0, z), (grey,) * 3, POLE)
    if arm:
        lamp = [(0, height), (0, height - 0.12), (arm, height + 0.05), (arm, height + 0.2)]
        view.card(lamp, (x, 0, z), (grey,) * 3, POLE)


def _sign(view: View, x: float, z: float, rng: np.random.Generator) -> None:
    """A traffic sign or signal on its pole: disc, triangle, plate or lights."""
    _post(view, x, z, 3.0, 0.04, 96)
    at, size, kind = (x, rng.uniform(2.3, 2.9), z), rng.uniform(0.4, 0.7), rng.integers(4)
    if kind < 2:
        shape = (DISC, _TRIANGLE)[kind] * size
        view.card(shape, at, (186, 28, 32), SIGN)
        view.card(shape * 0.7, at, (228, 228, 224), SIGN)
        view.card(shape * 0.25, at, (30, 30, 34), SIGN)
    elif kind == 2:
        plate = _SQUARE * (size * 1.3, size)
        view.card(plate, at, rng.choice([(32, 70, 150), (36, 100, 62), (218, 216, 205)]), SIGN)
        view.card(plate * (0.7, 0.15), at, (235, 235, 235), SIGN)
    else:
        view.card(_SQUARE * (0.26, 0.62), at, (24, 24, 26), SIGN)
        for (height, colour), turn in zip(_LIGHTS.items(), rng.permutation(3), strict=True):
            view.card(DISC * 0.14 + (0, height), at, colour if turn == 0 else (50, 48, 46), SIGN)
