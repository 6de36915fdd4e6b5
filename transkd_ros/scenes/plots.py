"""The plots along both sidewalks: buildings, fences and small parks."""

from collections.abc import Iterator
from functools import partial

import numpy as np

from transkd_ros.scenes.palette import BUILDING, CLOTHES, FENCE, PAINTS, WALLS
from transkd_ros.scenes.randomness import Seeds
from transkd_ros.scenes.street import LEFT, OUTWARD, RIGHT, Street
from transkd_ros.scenes.trees import Sprite, tree
from transkd_ros.scenes.view import NEAR, Points, Thing, View, rectangles


def plots(view: View, street: Street, seeds: Seeds, trees: list[Sprite]) -> Iterator[Thing]:
    """Both sides' plots: terraces at the sidewalk, houses and parks behind fences, and trees."""
    for side in (LEFT, RIGHT):
        outward, edge = OUTWARD[side], street.edge(side)
        for z, rng in seeds.cells(view.eye[2], 11.0, stream=10 + outward):
            far = z + 11.0
            if rng.random() < street.built:
                set_back = 0.0 if rng.random() < 0.75 else 4.0
                yield far, partial(_building, view, edge + outward * set_back, outward, z, far, rng, street.height)
            else:
                set_back = 9.0
                for i in range(2):
                    x = edge + outward * rng.uniform(2, 6)
                    yield tree(view, trees, x, z + 5.5 * i + rng.uniform(0, 5), rng, 1.1)
            if set_back and rng.random() < 0.75:
                yield far - 0.01, partial(_fence, view, edge, z, far, seeds.generator(14, outward, int(z)))


def _building(view: View, x: float, outward: int, z0: float, z1: float, rng: np.random.Generator, scale: float) -> None:
    """A building: its facade at x along [z0, z1], its back `outward` (-1 or 1) from there, its gable end and roof."""
    lit = outward * view.weather.sun
    wall = np.array(WALLS[rng.integers(len(WALLS))]) * rng.uniform(0.75, 1.15)
    wall = wall * (1.12 if lit > 0 else 1.0 if lit == 0 else 0.75)
    storeys, storey = int(np.clip(rng.normal(2.8, 0.9) * scale, 1, 6)), rng.uniform(2.7, 3.3)
    eaves, back = storeys * storey + 0.4, x + outward * 9.0
    peak = eaves + (rng.uniform(1.5, 3.0) if rng.random() < 0.6 else 0.0)
    ridge = (x + back) / 2
    if view.ahead(z0) > NEAR:
        gable = [(x, 0, z0), (x, eaves, z0), (ridge, peak, z0), (back, eaves, z0), (back, 0, z0)]
        view.fill(np.array([gable]), wall * 0.8, BUILDING)
    roof = np.array((88, 74, 70)) * rng.uniform(0.7, 1.2)
    view.fill(rectangles(x, ridge, eaves, peak, z0, z1), roof, BUILDING)
    view.fill(rectangles(x, x, 0, eaves, z0, z1), wall, BUILDING)
    view.fill(rectangles(x, x, eaves - 0.25, eaves, z0, z1), wall * rng.choice([0.6, 1.2]), BUILDING)
    if view.ahead(z0) <= 90:
        _openings(view, x, z0, z1, storeys, storey, wall, rng)


def _openings(
    view: View, x: float, z0: float, z1: float, storeys: int, storey: float, wall: Points, rng: np.random.Generator
) -> None:
    """What a facade with so many storeys of `storey` metres has: windows, a door and perhaps a shop front."""
    opening = partial(rectangles, x, x)
    bays = rng.integers(2, 5)
    pitch = (z1 - z0) / bays
    middles = z0 + pitch * (np.arange(bays) + 0.5)
    wide, tall = pitch * rng.uniform(0.2, 0.34), storey * rng.uniform(0.24, 0.32)  # half of a window's sides
    shop = rng.random() < 0.35
    z, y = (g.ravel() for g in np.meshgrid(middles, storey * (np.arange(int(shop), storeys) + 0.58)))
    frame = wall * rng.choice([0.65, 1.25])
    view.fill(opening(y - tall - 0.12, y + tall + 0.08, z - wide - 0.1, z + wide + 0.1), frame, BUILDING)
    glass = np.array((58, 66, 74)) * rng.uniform(0.5, 1.7)
    for half in (-1, 1):  # two panes to a window
        pane = z + half * wide * 0.52
        view.fill(opening(y - tall, y + tall, pane - wide * 0.45, pane + wide * 0.45), glass, BUILDING)
    if shop:
        board = np.array(CLOTHES[rng.integers(len(CLOTHES))]) * 1.2
        view.fill(opening(0.5, 2.3, z0 + 0.4, z1 - 0.4), glass * 0.8, BUILDING)
        view.fill(opening(2.3, 2.9, z0 + 0.2, z1 - 0.2), board, BUILDING)
    door = z0 + pitch
    paint = np.array(PAINTS[rng.integers(len(PAINTS))])
    view.fill(opening(0, 2.1, door - 0.45, door + 0.45), paint, BUILDING)


def _fence(view: View, x: float, z0: float, z1: float, rng: np.random.Generator) -> None:
    """A closed board fence or open railings along [z0, z1]."""
    tall, colour = rng.uniform(0.9, 1.7), np.array(rng.choice([(104, 84, 62), (70, 72, 74), (130, 126, 118)]))
    dark = colour * 0.6
    if rng.random() < 0.6:
        view.fill(rectangles(x, x, 0, tall, z0, z1), colour, FENCE)
        posts = np.arange(z0, z1, 0.9)
        view.fill(rectangles(x, x, 0, tall, posts, posts + 0.06), dark, FENCE)
        return
    view.fill(rectangles(x, x, 0, 0.25, z0, z1), colour * 0.7, FENCE)
    view.fill(rectangles(x, x, tall - 0.1, tall, z0, z1), dark, FENCE)
    bars = np.arange(z0, z1, 0.25 if view.ahead(z0) < 40 else 0.8)
    view.fill(rectangles(x, x, 0.25, tall - 0.1, bars, bars + 0.09), dark, FENCE)
