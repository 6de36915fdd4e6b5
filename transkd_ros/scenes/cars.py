"""Cars, vans and buses: parked at the kerbs, ahead of us in our lane, and coming towards us."""

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from transkd_ros.scenes.palette import CAR, PAINTS, ROAD
from transkd_ros.scenes.randomness import Seeds
from transkd_ros.scenes.street import LEFT, RIGHT, Street
from transkd_ros.scenes.view import DISC, NEAR, Points, Thing, View, rectangles

_CAR, _VAN, _BUS = range(3)
_OUR_LANE = 32  # its stream


def cars(view: View, street: Street, seeds: Seeds, time: float) -> Iterator[Thing]:
    """Parked cars on both sides, cars ahead in our lane at our speed, and cars that come towards us."""
    ego = view.eye[2]
    rows = [  # stream, x, metres to a cell, where the row starts, chance of a car in a cell, whether it shows its rear
        (30, -street.kerb[LEFT] + 1.4, 6.0, 0.0, street.parking[LEFT] * 0.6, True),
        (31, street.kerb[RIGHT] - 1.4, 6.0, 0.0, street.parking[RIGHT] * 0.6, False),
        (_OUR_LANE, -street.lane / 2, 17.0, ego, street.busy, True),
        (33, street.lane / 2, 19.0, -7.0 * time, street.busy, False),
    ]
    for stream, middle, length, start, chance, away in rows:
        for cell, rng in seeds.cells(ego, length, stream, start):
            z, x = cell + rng.uniform(0, length * 0.2), middle + rng.normal(0, 0.04)
            too_close = stream == _OUR_LANE and z - ego < 6
            if rng.random() < chance and view.sees(x, z + 4, 6) and not too_close:
                yield z, partial(_paint_car, view, x, z, away, rng)


class _Car(NamedTuple):
    """One car in metres: its nearer end is at z and its waist is where the windows begin.

    `near` and `far` are how much shorter the roof is than the body at either end.
    """

    kind: int
    x: float
    z: float
    half: float  # of its width
    tall: float
    long: float
    near: float
    far: float
    away: bool  # shows its rear, else its front
    paint: Points

    @property
    def waist(self) -> float:
        return self.tall * 0.6


def _paint_car(view: View, x: float, z: float, away: bool, rng: np.random.Generator) -> None:
    """Paint a car, van or bus with its shadow, the parts farthest from the camera first."""
    paint = np.array(PAINTS[rng.integers(len(PAINTS))], np.float64) * rng.uniform(0.8, 1.1)
    kind = int(rng.choice(3, p=(0.84, 0.11, 0.05)))
    half, tall, long = ((0.86, 1.46, 4.1), (0.95, 2.15, 4.9), (1.2, 3.0, 10.0))[kind]
    tail, nose = (0.45 if kind == _CAR else 0.15), (0.1 if kind == _BUS else 1.1)
    near, far = (tail, nose) if away else (nose, tail)
    car = _Car(kind, x, z, half, tall, long, near, far, away, paint)
    shadow = rectangles(x - half - 0.1, x + half + 0.1, 0.01, 0.01, z - 0.2, z + long)
    view.fill(shadow, (34, 34, 36), ROAD)
    if abs(x - view.eye[0]) > half:
        _paint_flank(view, car)
    if view.ahead(z) > NEAR:
        _paint_end(view, car)
        if view.ahead(z) <= 50:
            _paint_details(view, car)


def _paint_flank(view: View, car: _Car) -> None:
    """The side that faces the camera, with its windows and wheels."""
    z0, z1 = car.z, car.z + car.long
    x = car.x + car.half * (1 if car.x < view.eye[0] else -1)
    roof_x = x + 0.16 * np.sign(car.x - x)
    view.fill(rectangles(x, x, 0.28, car.waist, z0, z1), car.paint * 0.85, CAR)
    upper = [
        (x, car.waist, z0), (x, car.waist, z1), (roof_x, car.tall, z1 - car.far), (roof_x, car.tall, z0 + car.near),
    ]
    view.fill(np.array([upper]), car.paint * 0.8, CAR)
    pillars = np.linspace(z0 + car.near + 0.1, z1 - car.far - 0.1, 6 if car.kind == _BUS else 3)
    windows = rectangles(x, roof_x, car.waist + 0.04, car.tall - 0.1, pillars[:-1] + 0.05, pillars[1:] - 0.05)
    view.fill(windows, (36, 42, 48), CAR)
    if view.ahead(z0) < 40:
        for axle in (z0 + 0.75, z1 - 0.8):
            for radius, grey in ((0.32, 24), (0.19, 110)):  # tyre and rim
                wheel = np.column_stack([np.full(len(DISC), x), 0.32 + radius * DISC[:, 1], axle + radius * DISC[:, 0]])
                view.fill(wheel[None], (grey,) * 3, CAR)


def _paint_end(view: View, car: _Car) -> None:
    """The end that faces the camera: tyres, the sloping windscreen or rear window, and the body below."""
    x, z, half, waist, tall = car.x, car.z, car.half, car.waist, car.tall
    for tyre in (-half + 0.12, half - 0.12):
        view.card(DISC * (0.12, 0.3) + (tyre, 0.3), (x, 0, z), (20, 20, 22), CAR)
    slope = np.array([
        (x - half, waist, z), (x + half, waist, z), (x + half - 0.16, tall, z + car.near),
        (x - half + 0.16, tall, z + car.near),
    ])
    view.fill(slope[None], car.paint, CAR)
    middle = np.array([x, (waist + tall) / 2, z + car.near / 2])
    glass = (slope - middle) * (0.86, 0.78, 0.78) + middle
    view.fill(glass[None], (44, 52, 60), CAR)
    body = [
        (-half, 0.42), (-half + 0.1, 0.26), (half - 0.1, 0.26), (half, 0.42), (half, waist - 0.06),
        (half - 0.08, waist + 0.02), (-half + 0.08, waist + 0.02), (-half, waist - 0.06),
    ]
    view.card(body, (x, 0, z), car.paint * 0.92, CAR)


def _paint_details(view: View, car: _Car) -> None:
    """Bumper, number plate and lamps, in the colours of a British car's rear or front."""
    at, half = (car.x, 0, car.z), car.half
    bumper = [(-half + 0.05, 0.28), (half - 0.05, 0.28), (half, 0.46), (-half, 0.46)]
    view.card(bumper, at, car.paint * 0.55, CAR)
    plate = [(-0.26, 0.46), (0.26, 0.46), (0.26, 0.57), (-0.26, 0.57)]
    view.card(plate, at, (205, 180, 60) if car.away else (225, 225, 220), CAR)
    lamp = np.array([(half - 0.03, 0.64), (half - 0.28, 0.66), (half - 0.26, 0.82), (half - 0.03, 0.84)])
    for mirror in (-1, 1):
        view.card(lamp * (mirror, 1), at, (190, 30, 26) if car.away else (235, 235, 225), CAR)
