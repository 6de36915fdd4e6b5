"""The view of one frame: a pinhole projection and the canvas that everything is painted on.

Only shapes live here; what they depict, and in which order they are painted, is decided elsewhere.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from transkd_ros.scenes.weather import Weather

NEAR, FAR = 0.5, 150.0  # metres ahead: the clip plane and the skyline
SHIFT = 4  # fractional bits of the fixed-point pixel coordinates
DISC = np.stack([np.cos(np.arange(12) * np.pi / 6), np.sin(np.arange(12) * np.pi / 6)], 1)  # of radius 1, 12 corners

Image = NDArray[np.uint8]
Points = NDArray[np.float64]
Thing = tuple[float, Callable[[], None]]  # how far along the street it stands, and what paints it


def rectangles(x0: ArrayLike, x1: ArrayLike, y0: ArrayLike, y1: ArrayLike, z0: ArrayLike, z1: ArrayLike) -> Points:
    """Rectangles (N, 4, 3) with two sides along z: there at (x0, y0), back at (x1, y1)."""
    shapes = np.empty((np.broadcast(x0, x1, y0, y1, z0, z1).size, 4, 3))
    for axis, (there, back) in enumerate(((x0, x1), (y0, y1))):
        shapes[:, 0, axis] = shapes[:, 1, axis] = there
        shapes[:, 2, axis] = shapes[:, 3, axis] = back
    shapes[:, 0, 2] = shapes[:, 3, 2] = z0
    shapes[:, 1, 2] = shapes[:, 2, 2] = z1
    return shapes


class View:
    """A pinhole camera in some weather, and its canvas `pixels` (H, W, 4) uint8: red, green, blue and class.

    `focal` and `centre` (x, y) are in pixels and `eye` is the camera's place. The world is bent aside and uphill by
    `bend` and `hill` metres per metre ahead, squared.
    """

    def __init__(self, weather: Weather, focal: float, centre: Points, eye: Points, bend: float, hill: float) -> None:
        self.pixels: Image = weather.sky.copy()
        self.weather = weather
        self.focal, self.centre, self.eye, self.bend, self.hill = focal, centre, eye, bend, hill

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

    def ahead(self, z: float) -> float:
        """How many metres ahead of the camera z lies."""
        return z - self.eye[2]

    def sees(self, x: float, z: float, reach: float = 2.0) -> bool:
        """Whether something within `reach` metres of (x, z) may be in the picture."""
        depth = self.ahead(z + reach)
        return depth > NEAR and abs(x - self.eye[0]) - reach < depth * 0.75 * self.pixels.shape[1] / self.focal

    def fill(self, shapes: Points, colour: Iterable[float], label: int) -> None:
        """Paint polygons (N, k, 3) that do not overlap one another, all as light and hazy as in their middle."""
        depth = shapes[..., 2] - self.eye[2]
        ahead = depth.max(1) > NEAR
        if ahead.any():
            shapes = shapes if ahead.all() else shapes[ahead]
            value = self._tint(colour, float(depth[0, 0] + depth[-1, -1]) / 2, label)
            cv2.fillPoly(self.pixels, list(self.project(shapes)), value, cv2.LINE_8, SHIFT)

    def card(self, outline: ArrayLike, at: Sequence[float], colour: Iterable[float], label: int) -> None:
        """Paint one flat polygon (k, 2) of metres, facing the camera at the point `at`."""
        if self.ahead(at[2]) > NEAR:
            flat = np.asarray(outline, np.float64)
            shape = np.empty((1, len(flat), 3))
            shape[0, :, :2] = flat + at[:2]
            shape[..., 2] = at[2]
            self.fill(shape, colour, label)

    def band(self, x0: float, x1: float, colour: Iterable[float], label: int) -> None:
        """Paint a strip of ground from the bumper to the horizon, each piece with its own haze."""
        z = self.eye[2] + np.geomspace(NEAR, FAR, 14)
        pieces = rectangles(x0, x1, 0, 0, z[:-1], z[1:])
        for piece in pieces[::-1]:
            self.fill(piece[None], colour, label)

    def stamp(self, sprite: Image, mask: Image, foot: Sequence[float], width: float, height: float) -> None:
        """Paste a (h, w, 4) sprite where its mask is set, `foot` being the middle of its lower edge."""
        depth = self.ahead(foot[2])
        if depth <= NEAR:
            return
        u, v = self.project(np.asarray(foot, np.float64)) / (1 << SHIFT)
        w, h = (max(2, round(s * self.focal / depth)) for s in (width, height))
        left, top = int(u - w / 2), int(v - h)
        x0, y0 = max(left, 0), max(top, 0)
        x1, y1 = min(left + w, self.pixels.shape[1]), min(top + h, self.pixels.shape[0])
        if x0 >= x1 or y0 >= y1:
            return
        columns = (np.arange(x0, x1) - left) * sprite.shape[1] // w
        rows = (np.arange(y0, y1) - top) * sprite.shape[0] // h
        inside = mask[rows[:, None], columns]
        keep = self._kept(depth)
        shaded = cv2.multiply(sprite[rows[:, None], columns], np.append(self.weather.light * keep, 1.0))
        shaded = cv2.add(shaded, np.append(self.weather.haze * (1 - keep), 0.0))
        cv2.copyTo(shaded, inside, self.pixels[y0:y1, x0:x1])

    def _tint(self, colour: Iterable[float], depth: float, label: int) -> tuple[float, ...]:
        """The canvas value of a surface `depth` metres away: lit, then faded into the haze."""
        keep = self._kept(max(depth, 0.0))
        lit = zip(colour, self.weather.light.tolist(), self.weather.haze.tolist(), strict=True)
        return (*(min(255.0, float(c) * a * keep + h * (1 - keep)) for c, a, h in lit), label)

    def _kept(self, depth: float) -> float:
        """The share of a surface's own light that `depth` metres of haze let through."""
        return math.exp(-depth / self.weather.visibility)
