"""People: walkers on the sidewalks and cyclists on the road."""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from transkd_ros.scenes.palette import BICYCLIST, CLOTHES, PEDESTRIAN, ROAD
from transkd_ros.scenes.randomness import Seeds
from transkd_ros.scenes.street import LEFT, OUTWARD, RIGHT, Street
from transkd_ros.scenes.view import DISC, Thing, View, rectangles


def walkers(view: View, street: Street, seeds: Seeds, time: float) -> Iterator[Thing]:
    """Pedestrians, both ways on each sidewalk."""
    for stream, side, pace in ((40, LEFT, 1.2), (41, LEFT, -1.3), (42, RIGHT, 1.1), (43, RIGHT, -1.4)):
        for z, rng in seeds.cells(view.eye[2], 8.0, stream, start=pace * time):
            if rng.random() < street.busy * 0.7:
                x = OUTWARD[side] * (street.kerb[side] + rng.uniform(0.6, street.path[side] - 0.3))
                at = (x, 0.0, z + rng.uniform(0, 6))
                if view.sees(at[0], at[2], 1.0):
                    yield at[2], partial(_walker, view, at, rng, time)


def cyclists(view: View, street: Street, seeds: Seeds, time: float) -> Iterator[Thing]:
    """Cyclists on both sides of the road, clear of parked cars."""
    for stream, side, pace in ((50, LEFT, 4.5), (51, RIGHT, -4.5)):
        x = OUTWARD[side] * (street.kerb[side] - (2.8 if street.parking[side] else 0.7))
        for z, rng in seeds.cells(view.eye[2], 30.0, stream, start=pace * time):
            if rng.random() < 0.2:
                at = (x + rng.normal(0, 0.1), 0.0, z + rng.uniform(0, 12))
                if view.sees(at[0], at[2], 1.0):
                    yield at[2], partial(_cyclist, view, at, rng, time)


def _walker(view: View, at: Sequence[float], rng: np.random.Generator, time: float) -> None:
    """A walking pedestrian standing on the point `at`."""
    coat, trousers = (np.array(CLOTHES[i]) for i in rng.integers(0, len(CLOTHES), 2))
    tall, swing = rng.uniform(0.9, 1.08), 0.16 * np.sin(6 * time + rng.uniform(0, 6))
    for foot in (swing, -swing):
        leg = np.array([(-0.11, 0.85), (0.11, 0.85), (foot + 0.09, 0), (foot - 0.07, 0)])
        view.card(tall * leg, at, trousers * 0.8, PEDESTRIAN)
    body = np.array([
        (-0.2, 1.42), (-0.1, 1.5), (0.1, 1.5), (0.2, 1.42), (0.27, 0.85), (0.18, 0.75), (-0.18, 0.75), (-0.27, 0.85),
    ])
    view.card(tall * body, at, coat, PEDESTRIAN)
    view.card(tall * (DISC * (0.11, 0.14) + (0, 1.62)), at, (150, 112, 92), PEDESTRIAN)


def _cyclist(view: View, at: Sequence[float], rng: np.random.Generator, time: float) -> None:
    """A cyclist seen along the road: upright wheel, bars, pedalling legs and rider."""
    coat, trousers = (np.array(CLOTHES[i]) for i in rng.integers(0, len(CLOTHES), 2))
    shadow = rectangles(at[0] - 0.35, at[0] + 0.35, 0.01, 0.01, at[2], at[2] + 1.5)
    view.fill(shadow, (40, 40, 42), ROAD)
    view.card(DISC * (0.06, 0.34) + (0, 0.34), at, (22, 22, 24), BICYCLIST)
    view.card([(-0.3, 1.02), (0.3, 1.02), (0.3, 0.95), (-0.3, 0.95)], at, (40, 40, 44), BICYCLIST)
    lift = 0.12 * np.sin(7 * time + rng.uniform(0, 6))
    for mirror, rise in ((-1, lift), (1, -lift)):
        leg = np.array([(0.02, 1.0), (0.2, 1.0), (0.17, 0.28 + rise), (0.07, 0.28 + rise)])
        view.card(leg * (mirror, 1), at, trousers, BICYCLIST)
    body = [(-0.16, 1.52), (0.16, 1.52), (0.27, 1.2), (0.19, 0.9), (-0.19, 0.9), (-0.27, 1.2)]
    view.card(body, at, coat, BICYCLIST)
    view.card(DISC * (0.11, 0.14) + (0, 1.66), at, (60, 58, 60), BICYCLIST)
