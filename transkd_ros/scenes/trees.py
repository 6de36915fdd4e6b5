"""Trees: grown once into sprites, then stamped wherever one stands."""

from functools import partial

import cv2
import numpy as np

from transkd_ros.scenes.palette import TREE
from transkd_ros.scenes.randomness import smooth_noise
from transkd_ros.scenes.view import Image, Thing, View

Sprite = tuple[Image, Image]  # canvas values (h, w, 4), and a mask (h, w) that is 255 where they count
_SIZE = 160  # pixels along a sprite's side


def tree(view: View, sprites: list[Sprite], x: float, z: float, rng: np.random.Generator, scale: float) -> Thing:
    """One of the trees, standing at (x, z)."""
    sprite, mask = sprites[rng.integers(len(sprites))]
    tall = scale * rng.uniform(5.0, 10.0)
    return z, partial(view.stamp, sprite, mask, (x, 0, z), tall, tall)


def grow(rng: np.random.Generator) -> Sprite:
    """A new tree: trunk and branches, and on most a crown of leaves."""
    mask = _branches(rng)
    sprite = np.full((_SIZE, _SIZE, 4), (66, 58, 48, TREE), np.uint8)
    if rng.random() < 0.65:
        y, x = np.mgrid[:_SIZE, :_SIZE] / _SIZE
        ragged = 0.2 * smooth_noise(rng, _SIZE, _SIZE, (6, 14, 40, 90))
        leaves = 1.1 - np.hypot((x - 0.5) / 0.42, (y - 0.42) / 0.36) ** 2 + ragged > 0.25
        mask[leaves] = 255
        green = np.array(rng.choice([(66, 84, 38), (84, 92, 44), (52, 68, 40), (112, 92, 46)]))
        shade = 0.85 + 0.28 * smooth_noise(rng, _SIZE, _SIZE, (9, 30, 80)) + 0.35 * (0.4 - y)
        sprite[leaves, :3] = np.clip(green * shade[..., None], 8, 220)[leaves]
    return sprite, mask


def _branches(rng: np.random.Generator) -> Image:
    """The mask of a bare tree: each branch splits in three until it is a twig."""
    mask = np.zeros((_SIZE, _SIZE), np.uint8)
    branches = [(_SIZE / 2, _SIZE * 1.0, -np.pi / 2 + rng.normal(0, 0.04), _SIZE * 0.26, 6.0)]
    while branches:
        x, y, angle, length, thickness = branches.pop()
        tip_x, tip_y = x + length * np.cos(angle), y + length * np.sin(angle)
        cv2.line(mask, (int(x), int(y)), (int(tip_x), int(tip_y)), 255, max(1, round(thickness)))
        if length > 7:
            branches += [
                (tip_x, tip_y, angle + turn + rng.normal(0, 0.2), length * rng.uniform(0.55, 0.76), thickness * 0.62)
                for turn in (-0.45, 0.05, 0.5)
            ]
    return mask
