"""Rendered driving views with exact per-pixel labels.

A small painter's-algorithm renderer of a British street: road, kerbs, facades, trees, poles, signs, fences,
cars, pedestrians and cyclists, seen from a moving car under varied light and weather.  Colour and class are
the four channels of one canvas and every shape is filled once, so a label is exact by construction.

Axes in metres: x to the right of the road's centre line, y up from the road, z forward along the street.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

SKY, BUILDING, POLE, ROAD, SIDEWALK, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(11)
VOID = 255
NEAR, SIGHT, FAR = 0.5, 100.0, 150.0  # metres ahead: the clip plane, the last thing drawn, the skyline
SHIFT = 4  # fractional bits of the fixed-point pixel coordinates
ROUND = np.stack([np.cos(np.arange(12) * np.pi / 6), np.sin(np.arange(12) * np.pi / 6)], 1)  # a unit disc
TEXTURE = np.zeros(256, np.float32)  # how strongly each class shows the surface texture
TEXTURE[[BUILDING, ROAD, SIDEWALK, TREE, FENCE]] = 1.0, 0.8, 1.0, 1.2, 0.4
WALLS = [
    (150, 98, 76), (176, 160, 128), (205, 196, 178), (120, 80, 66), (142, 136, 126), (190, 172, 140),
    (96, 88, 84),
]
PAINTS = [
    (28, 28, 32), (165, 168, 172), (225, 225, 222), (130, 24, 28), (36, 54, 104), (72, 80, 84),
    (30, 74, 56),
]
CLOTHES = [
    (30, 30, 38), (60, 66, 90), (120, 36, 40), (150, 146, 138), (52, 74, 56), (190, 186, 176),
    (88, 70, 56),
]

Image = NDArray[np.uint8]
Points = NDArray[np.float64]
Thing = tuple[float, Callable[[], None]]  # how far along the street it stands, and what paints it


def _noise(rng: np.random.Generator, height: int, width: int, cells: Sequence[int]) -> NDArray[np.float32]:
    """Smooth noise (height, width), zero mean, unit deviation; `cells` are its grid sizes, coarse to fine."""
    total = np.zeros((height, width), np.float32)
    for octave, n in enumerate(cells):
        grid = rng.standard_normal((n, n)).astype(np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * 0.6**octave
    return (total - total.mean()) / (total.std() + 1e-6)


def _rect(x0: ArrayLike, x1: ArrayLike, y0: ArrayLike, y1: ArrayLike, z0: ArrayLike, z1: ArrayLike) -> Points:
    """Rectangles (N, 4, 3): corners run along z at (x0, y0), then back at (x1, y1)."""
    shapes = np.empty((np.broadcast(x0, x1, y0, y1, z0, z1).size, 4, 3))
    for axis, (low, high) in enumerate(((x0, x1), (y0, y1))):
        shapes[:, 0, axis] = shapes[:, 1, axis] = low
        shapes[:, 2, axis] = shapes[:, 3, axis] = high
    shapes[:, 0, 2] = shapes[:, 3, 2] = z0
    shapes[:, 1, 2] = shapes[:, 2, 2] = z1
    return shapes


class _View:
    """A pinhole camera and the canvas it paints: (H, W, 4) uint8, being red, green, blue and class."""

    def __init__(
        self, backdrop: Image, focal: float, centre: Points, eye: Points, bend: float, hill: float,
        haze: Points, clear: float, light: Points, sun: float,
    ) -> None:
        self.pixels = backdrop
        self.focal, self.centre, self.eye, self.bend, self.hill = focal, centre, eye, bend, hill
        self.haze, self.clear, self.light, self.sun = haze, clear, light, sun

    def project(self, points: Points) -> NDArray[np.int32]:
        """Fixed-point pixels of world points (..., 3).

        Points behind the clip plane move onto it along z, which is exact for edges that run along z.
        """
        z = np.maximum(points[..., 2] - self.eye[2], NEAR)
        uv = np.empty((*z.shape, 2))
        uv[..., 0] = self.centre[0] + self.focal * ((points[..., 0] - self.eye[0]) / z + self.bend * z)
        uv[..., 1] = self.centre[1] - self.focal * ((points[..., 1] - self.eye[1]) / z + self.hill * z)
        uv *= 1 << SHIFT
        return np.rint(uv).astype(np.int32)

    def sees(self, x: float, z: float, reach: float = 2.0) -> bool:
        """Whether something within `reach` metres of (x, z) may be in the picture."""
        depth = z + reach - self.eye[2]
        return (
            depth > NEAR and abs(x - self.eye[0]) - reach < depth * 0.75 * self.pixels.shape[1] / self.focal
        )

    def tint(self, colour: Iterable[float], depth: float, label: int) -> tuple[float, ...]:
        """The canvas value of a surface `depth` metres away: lit, then faded into the haze."""
        keep = math.exp(-max(depth, 0.0) / self.clear)
        lit = zip(colour, self.light.tolist(), self.haze.tolist(), strict=True)
        return (*(min(255.0, float(c) * a * keep + h * (1 - keep)) for c, a, h in lit), label)

    def fill(self, shapes: Points, colour: Iterable[float], label: int) -> None:
        """Paint polygons (N, k, 3) that do not overlap one another."""
        depth = shapes[..., 2] - self.eye[2]
        ahead = depth.max(1) > NEAR
        if ahead.any():
            shapes = shapes if ahead.all() else shapes[ahead]
            value = self.tint(colour, float(depth[0, 0] + depth[-1, -1]) / 2, label)
            cv2.fillPoly(self.pixels, list(self.project(shapes)), value, cv2.LINE_8, SHIFT)

    def card(self, outline: ArrayLike, at: Sequence[float], colour: Iterable[float], label: int) -> None:
        """Paint one flat polygon (k, 2) of metres, facing the camera at the point `at`."""
        if at[2] - self.eye[2] > NEAR:
            flat = np.asarray(outline, np.float64)
            shape = np.empty((1, len(flat), 3))
            shape[0, :, :2] = flat + at[:2]
            shape[..., 2] = at[2]
            self.fill(shape, colour, label)

    def band(self, x0: float, x1: float, colour: Iterable[float], label: int, y: float = 0.0) -> None:
        """Paint a strip of ground from the bumper to the horizon, each piece with its own haze."""
        z = self.eye[2] + np.geomspace(NEAR, FAR, 14)
        strips = _rect(x0, x1, y, y, z[:-1], z[1:])
        for strip in strips[::-1]:
            self.fill(strip[None], colour, label)

    def stamp(self, sprite: Image, mask: Image, low: Sequence[float], width: float, height: float) -> None:
        """Paste a (h, w, 4) sprite where its mask is set, `low` being the middle of its lower edge."""
        depth = low[2] - self.eye[2]
        if depth <= NEAR:
            return
        u, v = self.project(np.asarray(low, np.float64)) / (1 << SHIFT)
        w, h = (max(2, round(s * self.focal / depth)) for s in (width, height))
        left, top = int(u - w / 2), int(v - h)
        x0, y0 = max(left, 0), max(top, 0)
        x1, y1 = min(left + w, self.pixels.shape[1]), min(top + h, self.pixels.shape[0])
        if x0 >= x1 or y0 >= y1:
            return
        columns = (np.arange(x0, x1) - left) * sprite.shape[1] // w
        rows = (np.arange(y0, y1) - top) * sprite.shape[0] // h
        inside = mask[rows[:, None], columns]
        keep = math.exp(-depth / self.clear)
        shaded = cv2.multiply(sprite[rows[:, None], columns], np.append(self.light * keep, 1.0))
        shaded = cv2.add(shaded, np.append(self.haze * (1 - keep), 0.0))
        cv2.copyTo(shaded, inside, self.pixels[y0:y1, x0:x1])


def _sprite(rng: np.random.Generator) -> tuple[Image, Image]:
    """A tree 160 pixels square as (sprite, mask): trunk and branches, and on most a crown of leaves."""
    n = 160
    mask = np.zeros((n, n), np.uint8)
    tips = [(n / 2, n * 1.0, -np.pi / 2 + rng.normal(0, 0.04), n * 0.26, 6.0)]
    while tips:  # each branch splits until it is a twig
        x, y, angle, length, thick = tips.pop()
        ex, ey = x + length * np.cos(angle), y + length * np.sin(angle)
        cv2.line(mask, (int(x), int(y)), (int(ex), int(ey)), 255, max(1, round(thick)))
        if length > 7:
            tips += [
                (ex, ey, angle + s + rng.normal(0, 0.2), length * rng.uniform(0.55, 0.76), thick * 0.62)
                for s in (-0.45, 0.05, 0.5)
            ]
    sprite = np.full((n, n, 4), (66, 58, 48, TREE), np.uint8)
    if rng.random() < 0.65:
        yy, xx = np.mgrid[:n, :n] / n
        crown = (
            1.1
            - np.hypot((xx - 0.5) / 0.42, (yy - 0.42) / 0.36) ** 2
            + 0.2 * _noise(rng, n, n, (6, 14, 40, 90))
        )
        leaves = crown > 0.25
        mask[leaves] = 255
        green = np.array(rng.choice([(66, 84, 38), (84, 92, 44), (52, 68, 40), (112, 92, 46)]))
        shade = 0.85 + 0.28 * _noise(rng, n, n, (9, 30, 80)) + 0.35 * (0.4 - yy)
        sprite[leaves, :3] = np.clip(green * shade[..., None], 8, 220)[leaves]
    return sprite, mask


def _person(view: _View, at: Sequence[float], rng: np.random.Generator, time: float) -> None:
    """A walking pedestrian standing on the point `at`."""
    coat, legs = (np.array(CLOTHES[i]) for i in rng.integers(0, len(CLOTHES), 2))
    tall, swing = rng.uniform(0.9, 1.08), 0.16 * np.sin(6 * time + rng.uniform(0, 6))
    for s in (swing, -swing):
        view.card(
            tall * np.array([(-0.11, 0.85), (0.11, 0.85), (s + 0.09, 0), (s - 0.07, 0)]), at, legs * 0.8,
            PEDESTRIAN,
        )
    body = [
        (-0.2, 1.42), (-0.1, 1.5), (0.1, 1.5), (0.2, 1.42), (0.27, 0.85), (0.18, 0.75), (-0.18, 0.75),
        (-0.27, 0.85),
    ]
    view.card(tall * np.array(body), at, coat, PEDESTRIAN)
    view.card(tall * (ROUND * (0.11, 0.14) + (0, 1.62)), at, (150, 112, 92), PEDESTRIAN)


def _cyclist(view: _View, at: Sequence[float], rng: np.random.Generator, time: float) -> None:
    """A cyclist seen along the road: upright wheel, bars, pedalling legs and rider."""
    coat, legs = (np.array(CLOTHES[i]) for i in rng.integers(0, len(CLOTHES), 2))
    view.fill(_rect(at[0] - 0.35, at[0] + 0.35, 0.01, 0.01, at[2], at[2] + 1.5), (40, 40, 42), ROAD)
    view.card(ROUND * (0.06, 0.34) + (0, 0.34), at, (22, 22, 24), BICYCLIST)
    view.card([(-0.3, 1.02), (0.3, 1.02), (0.3, 0.95), (-0.3, 0.95)], at, (40, 40, 44), BICYCLIST)
    lift = 0.12 * np.sin(7 * time + rng.uniform(0, 6))
    for side, rise in ((-1, lift), (1, -lift)):
        leg = np.array([(0.02, 1.0), (0.2, 1.0), (0.17, 0.28 + rise), (0.07, 0.28 + rise)])
        view.card(leg * (side, 1), at, legs, BICYCLIST)
    view.card(
        [(-0.16, 1.52), (0.16, 1.52), (0.27, 1.2), (0.19, 0.9), (-0.19, 0.9), (-0.27, 1.2)], at, coat,
        BICYCLIST,
    )
    view.card(ROUND * (0.11, 0.14) + (0, 1.66), at, (60, 58, 60), BICYCLIST)


def _car(view: _View, x: float, z: float, away: bool, rng: np.random.Generator) -> None:
    """A car, van or bus whose nearer end is at z; `away` shows its rear, else its front."""
    paint = np.array(PAINTS[rng.integers(len(PAINTS))], np.float64) * rng.uniform(0.8, 1.1)
    kind = rng.choice(3, p=(0.84, 0.11, 0.05))
    half, tall, long = ((0.86, 1.46, 4.1), (0.95, 2.15, 4.9), (1.2, 3.0, 10.0))[kind]
    waist, tail, nose = tall * 0.6, (0.15 if kind else 0.45), (0.1 if kind == 2 else 1.1)
    rear, front = (tail, nose) if away else (nose, tail)
    near = x + half * (1 if x < view.eye[0] else -1)  # the flank that faces the camera
    inner = near + 0.16 * np.sign(x - near)
    view.fill(_rect(x - half - 0.1, x + half + 0.1, 0.01, 0.01, z - 0.2, z + long), (34, 34, 36), ROAD)
    if abs(x - view.eye[0]) > half:
        view.fill(_rect(near, near, 0.28, waist, z, z + long), paint * 0.85, CAR)
        flank = [
            (near, waist, z), (near, waist, z + long), (inner, tall, z + long - front),
            (inner, tall, z + rear),
        ]
        view.fill(np.array([flank]), paint * 0.8, CAR)
        zs = np.linspace(z + rear + 0.1, z + long - front - 0.1, 6 if kind == 2 else 3)
        view.fill(
            _rect(near, inner, waist + 0.04, tall - 0.1, zs[:-1] + 0.05, zs[1:] - 0.05), (36, 42, 48), CAR
        )
        for axle in (z + 0.75, z + long - 0.8) if z - view.eye[2] < 40 else ():
            for radius, grey in ((0.32, 24), (0.19, 110)):
                wheel = np.column_stack(
                    [np.full(12, near), 0.32 + radius * ROUND[:, 1], axle + radius * ROUND[:, 0]]
                )
                view.fill(wheel[None], (grey,) * 3, CAR)
    if z - view.eye[2] <= NEAR:
        return
    for tyre in (-half + 0.12, half - 0.12):
        view.card(ROUND * (0.12, 0.3) + (tyre, 0.3), (x, 0, z), (20, 20, 22), CAR)
    roof = [
        (x - half, waist, z), (x + half, waist, z), (x + half - 0.16, tall, z + rear),
        (x - half + 0.16, tall, z + rear),
    ]
    view.fill(np.array([roof]), paint, CAR)
    middle = np.array([x, (waist + tall) / 2, z + rear / 2])
    view.fill(np.array([(np.array(roof) - middle) * (0.86, 0.78, 0.78) + middle]), (44, 52, 60), CAR)
    face = [
        (-half, 0.42), (-half + 0.1, 0.26), (half - 0.1, 0.26), (half, 0.42), (half, waist - 0.06),
        (half - 0.08, waist + 0.02), (-half + 0.08, waist + 0.02), (-half, waist - 0.06),
    ]
    view.card(face, (x, 0, z), paint * 0.92, CAR)
    if z - view.eye[2] > 50:
        return
    view.card(
        [(-half + 0.05, 0.28), (half - 0.05, 0.28), (half, 0.46), (-half, 0.46)], (x, 0, z), paint * 0.55, CAR
    )
    view.card(
        [(-0.26, 0.46), (0.26, 0.46), (0.26, 0.57), (-0.26, 0.57)], (x, 0, z),
        (205, 180, 60) if away else (225, 225, 220), CAR,
    )
    for s in (-1, 1):
        lamp = np.array(
            [(half - 0.03, 0.64), (half - 0.28, 0.66), (half - 0.26, 0.82), (half - 0.03, 0.84)]
        ) * (s, 1)
        view.card(lamp, (x, 0, z), (190, 30, 26) if away else (235, 235, 225), CAR)


def _building(
    view: _View, x: float, side: int, z0: float, z1: float, rng: np.random.Generator, scale: float
) -> None:
    """A facade at x along [z0, z1]: storeys of windows, a door or shop front, its gable end and a roof."""
    wall = np.array(WALLS[rng.integers(len(WALLS))]) * rng.uniform(0.75, 1.15)
    wall = wall * (1.12 if side * view.sun > 0 else 1.0 if view.sun == 0 else 0.75)
    storeys, storey = int(np.clip(rng.normal(2.8, 0.9) * scale, 1, 6)), rng.uniform(2.7, 3.3)
    top, deep = storeys * storey + 0.4, x + side * 9.0
    peak = top + (rng.uniform(1.5, 3.0) if rng.random() < 0.6 else 0.0)
    ridge = (x + deep) / 2
    if z0 - view.eye[2] > NEAR:
        gable = [(x, 0, z0), (x, top, z0), (ridge, peak, z0), (deep, top, z0), (deep, 0, z0)]
        view.fill(np.array([gable]), wall * 0.8, BUILDING)
    view.fill(_rect(x, ridge, top, peak, z0, z1), np.array((88, 74, 70)) * rng.uniform(0.7, 1.2), BUILDING)
    view.fill(_rect(x, x, 0, top, z0, z1), wall, BUILDING)
    view.fill(_rect(x, x, top - 0.25, top, z0, z1), wall * rng.choice([0.6, 1.2]), BUILDING)
    if z0 - view.eye[2] > 90:
        return
    bays = rng.integers(2, 5)
    pitch = (z1 - z0) / bays
    zs = z0 + pitch * (np.arange(bays) + 0.5)
    wide, tall = pitch * rng.uniform(0.2, 0.34), storey * rng.uniform(0.24, 0.32)
    shop = rng.random() < 0.35
    z, y = (g.ravel() for g in np.meshgrid(zs, storey * (np.arange(int(shop), storeys) + 0.58)))
    frame = rng.choice([0.65, 1.25])
    view.fill(
        _rect(x, x, y - tall - 0.12, y + tall + 0.08, z - wide - 0.1, z + wide + 0.1), wall * frame, BUILDING
    )
    glass = np.array((58, 66, 74)) * rng.uniform(0.5, 1.7)
    for half in (-1, 1):  # two panes to a window
        view.fill(
            _rect(
                x, x, y - tall, y + tall, z + half * wide * 0.52 - wide * 0.45,
                z + half * wide * 0.52 + wide * 0.45,
            ),
            glass,
            BUILDING,
        )
    if shop:
        sign = np.array(CLOTHES[rng.integers(len(CLOTHES))]) * 1.2
        view.fill(_rect(x, x, 0.5, 2.3, z0 + 0.4, z1 - 0.4), glass * 0.8, BUILDING)
        view.fill(_rect(x, x, 2.3, 2.9, z0 + 0.2, z1 - 0.2), sign, BUILDING)
    door = z0 + pitch
    view.fill(
        _rect(x, x, 0, 2.1, door - 0.45, door + 0.45), np.array(PAINTS[rng.integers(len(PAINTS))]), BUILDING
    )


def _fence(view: _View, x: float, z0: float, z1: float, rng: np.random.Generator) -> None:
    """A closed board fence or open railings along [z0, z1]."""
    tall, brown = rng.uniform(0.9, 1.7), np.array(rng.choice([(104, 84, 62), (70, 72, 74), (130, 126, 118)]))
    near = max(z0, view.eye[2] + NEAR)
    if rng.random() < 0.6:
        view.fill(_rect(x, x, 0, tall, z0, z1), brown, FENCE)
        posts = np.arange(z0, z1, 0.9)
        view.fill(_rect(x, x, 0, tall, posts, posts + 0.06), brown * 0.6, FENCE)
        return
    view.fill(_rect(x, x, 0, 0.25, z0, z1), brown * 0.7, FENCE)
    view.fill(_rect(x, x, tall - 0.1, tall, z0, z1), brown * 0.6, FENCE)
    bars = np.arange(z0, z1, 0.25 if near - view.eye[2] < 40 else 0.8)
    view.fill(_rect(x, x, 0.25, tall - 0.1, bars, bars + 0.09), brown * 0.6, FENCE)


def _post(view: _View, x: float, z: float, height: float, half: float, grey: float, arm: float = 0.0) -> None:
    """An upright pole, with a lamp arm reaching `arm` metres sideways."""
    view.card(
        [(-half, 0), (half, 0), (half * 0.7, height), (-half * 0.7, height)], (x, 0, z), (grey,) * 3, POLE
    )
    if arm:
        view.card(
            [(0, height), (0, height - 0.12), (arm, height + 0.05), (arm, height + 0.2)], (x, 0, z),
            (grey,) * 3, POLE,
        )


def _sign(view: _View, x: float, z: float, rng: np.random.Generator) -> None:
    """A traffic sign or signal on its pole: disc, triangle, plate or lights."""
    _post(view, x, z, 3.0, 0.04, 96)
    at, size, kind = (x, rng.uniform(2.3, 2.9), z), rng.uniform(0.4, 0.7), rng.integers(4)
    turn = np.array([(np.sin(a), np.cos(a)) for a in np.arange(3) * 2 * np.pi / 3])
    if kind < 2:
        shape = (ROUND, turn)[kind] * size
        view.card(shape, at, (186, 28, 32), SIGN)
        view.card(shape * 0.7, at, (228, 228, 224), SIGN)
        view.card(shape * 0.25, at, (30, 30, 34), SIGN)
        return
    square = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    plate = square * ((size * 1.3, size) if kind == 2 else (0.26, 0.62))
    back = rng.choice([(32, 70, 150), (36, 100, 62), (218, 216, 205)]) if kind == 2 else (24, 24, 26)
    view.card(plate, at, back, SIGN)
    if kind == 2:
        view.card(plate * (0.7, 0.15), at, (235, 235, 235), SIGN)
        return
    for row, lit in zip((0.34, 0.0, -0.34), rng.permutation(3), strict=True):
        colour = (
            {0.34: (230, 40, 30), 0.0: (220, 150, 30), -0.34: (40, 220, 130)}[row]
            if lit == 0
            else (50, 48, 46)
        )
        view.card(ROUND * 0.14 + (0, row), at, colour, SIGN)


class Drive:
    """One drive through a rendered town: the same seed gives the same sequence on every machine."""

    def __init__(self, seed: int, size: tuple[int, int] = (360, 480)) -> None:
        """Lay out drive `seed` (an integer >= 0) for frames of `size` (height, width), 64..8192 pixels each.

        Raises ValueError for any other seed or size.
        """
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
            raise ValueError(f"seed must be an integer >= 0, not {seed!r}")
        if (
            not isinstance(size, Sequence)
            or len(size) != 2
            or not all(isinstance(n, int | np.integer) and 64 <= n <= 8192 for n in size)
        ):
            raise ValueError(f"size must be (height, width) in 64..8192 pixels, not {size!r}")
        self.seed, self.size = int(seed), (int(size[0]), int(size[1]))
        rng = self._rng()
        self._lay_out_street(rng)
        self._set_weather(rng)
        self._set_camera(rng)
        self.trees = [_sprite(self._rng(1, i)) for i in range(5)]

    def _rng(self, *key: int) -> np.random.Generator:
        """A generator for one thing of this drive; negative cell numbers are folded to even naturals."""
        return np.random.default_rng([self.seed, *(2 * k + 1 if k >= 0 else -2 * k for k in key)])

    def _lay_out_street(self, rng: np.random.Generator) -> None:
        self.lane = rng.uniform(2.7, 3.7)
        self.parking = rng.random(2) < (0.3, 0.4)  # bays on the left and on the right
        self.kerb = self.lane + 2.1 * self.parking + rng.uniform(0.0, 0.5)
        self.path = rng.uniform(1.8, 4.5, 2)  # sidewalk widths
        self.built, self.leafy, self.busy = (
            rng.uniform(0.5, 0.97), rng.uniform(0.2, 0.75), rng.uniform(0.15, 0.6),
        )
        self.tall = rng.uniform(0.75, 1.5)
        self.bends = rng.normal(0, 0.0006), rng.normal(0, 0.00006), rng.uniform(0, 6)
        self.speed = rng.uniform(4.0, 11.0)

    def _set_weather(self, rng: np.random.Generator) -> None:
        weather = rng.choice(4, p=(0.45, 0.33, 0.08, 0.14))  # clear, overcast, fog, rain
        self.rain = weather == 3
        self.clear = (700.0, 400.0, 75.0, 220.0)[weather]
        warm = rng.uniform(-0.07, 0.1)
        self.light = (
            (1.0, 0.82, 0.85, 0.7)[weather] * rng.uniform(0.7, 1.1) * np.array([1 + warm, 1.0, 1 - warm])
        )
        self.sun = (
            rng.choice([-1.0, 1.0]) * rng.uniform(0.2, 1.0) if weather == 0 else 0.0
        )  # shadow to the right per height
        zenith = np.array(
            [(112, 152, 210), (188, 194, 202), (196, 198, 200), (160, 166, 174)][weather]
        ) * rng.uniform(0.85, 1.1)
        self.haze = np.clip(
            np.array([(226, 228, 228), (226, 226, 224), (206, 206, 206), (190, 192, 194)][weather])
            * rng.uniform(0.9, 1.12)
            * (1 + warm / 2, 1, 1 - warm / 2),
            0,
            255,
        )
        height, width = self.size
        down = np.linspace(0, 2.2, height)[:, None, None].clip(0, 1)
        cloud = np.clip(_noise(rng, height, width, (3, 6, 12, 25)) * 0.45 + rng.uniform(-0.3, 0.5), 0, 1)[
            ..., None
        ]
        blue = zenith * (1 - down) + self.haze * down
        self.sky = np.full((height, width, 4), SKY, np.uint8)
        self.sky[..., :3] = np.clip(blue * (1 - cloud) + self.haze * 1.03 * cloud, 0, 255)

    def _set_camera(self, rng: np.random.Generator) -> None:
        height, width = self.size
        self.focal = width * rng.uniform(0.85, 1.15)
        self.centre = np.array([width * rng.uniform(0.35, 0.62), height * rng.uniform(0.42, 0.6)])
        self.eye = np.array([-self.lane * rng.uniform(0.42, 0.58), rng.uniform(1.2, 1.6), 0.0])
        u, v = np.meshgrid(np.arange(width) - self.centre[0], np.arange(height) - self.centre[1])
        wall = np.where(
            u < 0, self.eye[0] + self.kerb[0] + self.path[0], self.kerb[1] + self.path[1] - self.eye[0]
        )
        # Every pixel takes the texture of whichever of ground and walls its ray meets first.
        depth = self.focal * np.minimum(self.eye[1] / np.maximum(v, 1e-3), wall / np.maximum(np.abs(u), 1e-3))
        self.along = (depth * 24).astype(np.float32)
        self.across = np.mod(np.abs(u - v) * depth / self.focal * 24, 511).astype(np.float32)
        self.rough = (rng.uniform(10, 26) * np.exp(-depth / 25)).astype(np.float32)
        tile = _noise(rng, 256, 256, (8, 40, 128, 256))
        self.tile = cv2.copyMakeBorder(
            tile, 0, 256, 0, 256, cv2.BORDER_REFLECT
        )  # mirrored, so that it repeats
        radius = (u / width) ** 2 + (v / height) ** 2
        balance = rng.normal(1.06, 0.02, 3)
        tones = np.arange(256) / 255.0  # a dark exposure sinks the street, yet leaves the sky bright
        self.curve = np.rint(255 * tones ** rng.choice([0.8, 1.0, 1.25, 1.6])).astype(np.uint8)
        self.gain = ((1 - rng.uniform(0, 0.5) * radius)[..., None] * balance).astype(np.float32)
        grain = rng.standard_normal((height + 32, width + 32, 3)) * rng.uniform(1.0, 5.0)
        self.grain, self.blur = grain.astype(np.float32), rng.uniform(0.45, 0.9)
        self.bonnet = height * (rng.uniform(0.03, 0.09) if rng.random() < 0.2 else 0.0)

    def frame(self, index: int, rate: float = 10.0) -> tuple[Image, Image]:
        """The view index/rate seconds into the drive.

        `index` is an integer >= 0 and `rate` a positive number of frames per second; frames may be asked
        for in any order.  Returns the image (H, W, 3) uint8 RGB and its labels (H, W) uint8: classes 0..10,
        or 255 on the car's own bonnet.  Raises ValueError for any other index or rate.
        """
        if isinstance(index, bool) or not isinstance(index, int | np.integer) or index < 0:
            raise ValueError(f"index must be an integer >= 0, not {index!r}")
        if not (np.isfinite(rate) and rate > 0):
            raise ValueError(f"rate must be a positive number of frames per second, not {rate!r}")
        time = index / rate
        z = self.speed * time
        bob = np.array([np.sin(0.9 * time), np.sin(2.3 * time)]) * self.size[0] / 400
        bend, hill = (b * np.sin(z / 60 + self.bends[2]) for b in self.bends[:2])
        view = _View(
            self.sky.copy(), self.focal, self.centre + bob, self.eye + np.array([0, 0, z]), bend, hill,
            self.haze, self.clear, self.light, self.sun,
        )
        self._paint_skyline(view)
        self._paint_ground(view)
        things = [
            *self._plots(view), *self._furniture(view), *self._traffic(view, time),
            *self._people(view, time),
        ]
        for _, paint in sorted(things, key=lambda thing: -thing[0]):
            paint()
        if self.bonnet:
            box = (self.size[1] / 2, self.size[0]), (self.size[1] * 1.3, self.bonnet * 2), 0
            cv2.ellipse(view.pixels, box, (*(np.array((46, 48, 52)) * self.light).tolist(), VOID), -1)
        labels = np.ascontiguousarray(view.pixels[..., 3])
        return self._expose(view.pixels, labels, z, self._rng(9, int(index))), labels

    def _cells(
        self, view: _View, length: float, kind: int, start: float = 0.0
    ) -> Iterable[tuple[float, np.random.Generator]]:
        """Where the street's cells of `length` metres in sight begin, each with its own generator.

        A row of cells that begins at `start` may move, so one rule serves houses and traffic alike.
        """
        first = int(np.floor((view.eye[2] - start) / length)) - 1
        for k in range(first, first + int(SIGHT / length) + 2):
            yield start + k * length, self._rng(kind, k)

    def _paint_skyline(self, view: _View) -> None:
        rng = self._rng(2)
        for x in range(-130, 130, 9):
            label = BUILDING if rng.random() < self.built - 0.2 else TREE
            tone = (
                np.array(WALLS[rng.integers(len(WALLS))]) * 0.8
                if label == BUILDING
                else np.array((62, 72, 48))
            )
            tall, w = rng.uniform(4, 11), rng.uniform(5, 9)
            shape = ROUND * (w, tall) if label == TREE else [(-w, -3), (w, -3), (w, tall), (-w, tall)]
            view.card(shape, (x, 0, view.eye[2] + FAR), tone, label)

    def _paint_ground(self, view: _View) -> None:
        rng = self._rng(3)
        tar = np.array((98, 98, 100)) * rng.uniform(0.8, 1.25) * (0.75 if self.rain else 1.0)
        slab = np.array((140, 134, 126)) * rng.uniform(0.8, 1.2)
        view.band(-90, 90, (86, 98, 52), TREE)
        left, right = -self.kerb[0], self.kerb[1]
        view.band(left - self.path[0], right + self.path[1], slab, SIDEWALK)
        view.band(left - 0.15, right + 0.15, slab * 1.2, SIDEWALK)
        view.band(left, right, tar, ROAD)
        yellow = rng.random() < 0.4
        for x in (left + 0.35, right - 0.35):
            view.band(x - 0.06, x + 0.06, (190, 160, 70) if yellow else tar * 1.6, ROAD)
        dash = np.array([z for z, _ in self._cells(view, 6.0, 4)])
        view.fill(_rect(-0.06, 0.06, 0, 0, dash, dash + rng.choice([2.0, 4.0])), (215, 215, 210), ROAD)
        for z, cell in self._cells(view, 45.0, 5):
            if cell.random() < 0.4:
                xs = np.arange(left + 0.5, right - 0.6, 1.1)
                view.fill(_rect(xs, xs + 0.55, 0, 0, z + 10, z + 13), (220, 220, 216), ROAD)

        if self.sun:
            self._shade(view)

    def _shade(self, view: _View) -> None:
        """Darken the ground where the houses on the sun's side keep the light off; keep its class."""
        side = -1 if self.sun > 0 else 1
        edge = side * (self.kerb[(side + 1) // 2] + self.path[(side + 1) // 2])
        shade = np.zeros(self.size, np.uint8)
        for z, rng in self._cells(view, 11.0, 6):
            cast = edge + self.sun * rng.uniform(3, 12) * self.tall
            cv2.fillPoly(
                shade, list(view.project(_rect(edge, cast, 0, 0, z, z + 11))), 255, cv2.LINE_8, SHIFT
            )
        dark = cv2.multiply(view.pixels, np.array([0.5, 0.53, 0.58, 1.0]))
        shade[(view.pixels[..., 3] < ROAD) | (view.pixels[..., 3] > TREE)] = 0
        cv2.copyTo(dark, shade, view.pixels)

    def _plots(self, view: _View) -> Iterator[Thing]:
        """Both sides' plots: terraces at the sidewalk, houses and parks behind fences, and trees."""
        for side in (-1, 1):
            edge = side * (self.kerb[(side + 1) // 2] + self.path[(side + 1) // 2])
            for z, rng in self._cells(view, 11.0, 10 + side):
                far = z + 11.0
                if rng.random() < self.built:
                    set_back = 0.0 if rng.random() < 0.75 else 4.0
                    yield far, partial(_building, view, edge + side * set_back, side, z, far, rng, self.tall)
                else:
                    set_back = 9.0
                    for i in range(2):
                        yield self._tree(
                            view, edge + side * rng.uniform(2, 6), z + 5.5 * i + rng.uniform(0, 5), rng, 1.1
                        )
                if set_back and rng.random() < 0.75:
                    yield far - 0.01, partial(_fence, view, edge, z, far, self._rng(14, side, int(z)))

    def _tree(self, view: _View, x: float, z: float, rng: np.random.Generator, scale: float) -> Thing:
        sprite, mask = self.trees[rng.integers(len(self.trees))]
        tall = scale * rng.uniform(5.0, 10.0)
        return z, partial(view.stamp, sprite, mask, (x, 0, z), tall, tall)

    def _furniture(self, view: _View) -> Iterator[Thing]:
        """Lamp posts, bollards, signs and street trees along the kerbs."""
        for side in (-1, 1):
            x = side * (self.kerb[(side + 1) // 2] + 0.45)
            for z, rng in self._cells(view, 9.0, 20 + side):
                if not view.sees(x, z + 4, 6):
                    continue
                spot, roll = z + rng.uniform(0, 4), rng.random()
                if roll < 0.3:
                    tall, grey = rng.uniform(5.5, 9), rng.uniform(60, 140)
                    yield spot, partial(_post, view, x, spot, tall, 0.09, grey, -1.4 * side)
                elif roll < 0.7:
                    yield spot, partial(_sign, view, x, spot, rng)
                elif roll < 0.8:
                    yield spot, partial(_post, view, x, spot, 1.0, 0.07, 50)
                if rng.random() < self.leafy * 0.5:
                    yield self._tree(view, x + side * 0.3, z + rng.uniform(5, 8), rng, 0.9)

    def _traffic(self, view: _View, time: float) -> Iterator[Thing]:
        """Parked cars on both sides, cars ahead in our lane at our speed, and cars that come towards us."""
        ego = view.eye[2]
        rows = [
            (30, -self.kerb[0] + 1.4, 6.0, 0.0, self.parking[0] * 0.6, True),
            (31, self.kerb[1] - 1.4, 6.0, 0.0, self.parking[1] * 0.6, False),
            (32, -self.lane / 2, 17.0, ego, self.busy, True),
            (33, self.lane / 2, 19.0, -7.0 * time, self.busy, False),
        ]
        for kind, x, length, start, chance, away in rows:
            for z, rng in self._cells(view, length, kind, start):
                spot, side = z + rng.uniform(0, length * 0.2), x + rng.normal(0, 0.04)
                if (
                    rng.random() < chance
                    and view.sees(side, spot + 4, 6)
                    and not (kind == 32 and spot - ego < 6)
                ):
                    yield spot, partial(_car, view, side, spot, away, rng)

    def _people(self, view: _View, time: float) -> Iterator[Thing]:
        """Walkers both ways on each sidewalk, and cyclists on both sides of the road."""
        for kind, side, pace in ((40, -1, 1.2), (41, -1, -1.3), (42, 1, 1.1), (43, 1, -1.4)):
            i = (side + 1) // 2
            for z, rng in self._cells(view, 8.0, kind, pace * time):
                if rng.random() < self.busy * 0.7:
                    at = (
                        side * (self.kerb[i] + rng.uniform(0.6, self.path[i] - 0.3)), 0.0,
                        z + rng.uniform(0, 6),
                    )
                    if view.sees(at[0], at[2], 1.0):
                        yield at[2], partial(_person, view, at, rng, time)
        for kind, side, pace in ((50, -1, 4.5), (51, 1, -4.5)):
            i = (side + 1) // 2
            x = side * (self.kerb[i] - (2.8 if self.parking[i] else 0.7))
            for z, rng in self._cells(view, 30.0, kind, pace * time):
                if rng.random() < 0.2:
                    at = (x + rng.normal(0, 0.1), 0.0, z + rng.uniform(0, 12))
                    if view.sees(at[0], at[2], 1.0):
                        yield at[2], partial(_cyclist, view, at, rng, time)

    def _expose(self, pixels: Image, labels: Image, z: float, rng: np.random.Generator) -> Image:
        """The photograph of the painted view: texture, rain, blur, vignette, white balance, grain, tone."""
        along = np.mod(self.along + np.float32(z * 24 % 512), np.float32(511))
        grain = cv2.remap(self.tile, along, self.across, cv2.INTER_LINEAR)
        surface = self.rough * TEXTURE[labels] * grain
        image: NDArray[np.float32] = pixels[..., :3] + surface[..., None]
        if self.rain:
            for u, v, n in rng.uniform((0, 0, 0.02), (self.size[1], self.size[0], 0.06), (60, 3)):
                ends = (int(u), int(v)), (int(u + n * 20), int(v + n * self.size[0]))
                cv2.line(image, *ends, (self.haze * 0.85).tolist(), 1, cv2.LINE_AA)
        image = cv2.GaussianBlur(image, (3, 3), self.blur) * self.gain
        dy, dx = rng.integers(0, 32, 2)
        image += self.grain[dy : dy + self.size[0], dx : dx + self.size[1]]
        return self.curve[np.clip(image, 0, 255).astype(np.uint8)]


def drive(
    seed: int, frames: int, size: tuple[int, int] = (360, 480), rate: float = 10.0
) -> Iterator[tuple[Image, Image]]:
    """The first `frames` (image, labels) pairs of Drive(seed, size) at `rate` frames per second.

    Shapes, types and ranges are those of Drive.frame.  Raises ValueError, at once, for a bad argument.
    """
    if isinstance(frames, bool) or not isinstance(frames, int | np.integer) or frames < 0:
        raise ValueError(f"frames must be an integer >= 0, not {frames!r}")
    if not (np.isfinite(rate) and rate > 0):
        raise ValueError(f"rate must be a positive number of frames per second, not {rate!r}")
    town = Drive(seed, size)
    return (town.frame(i, rate) for i in range(frames))
