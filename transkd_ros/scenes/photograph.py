"""The camera in the car: where it looks from, and how it turns a painted view into a photograph."""

import cv2
import numpy as np
from numpy.typing import NDArray

from transkd_ros.scenes.palette import BUILDING, FENCE, ROAD, SIDEWALK, TREE, VOID
from transkd_ros.scenes.randomness import smooth_noise
from transkd_ros.scenes.street import LEFT, RIGHT, Street
from transkd_ros.scenes.view import Image, View
from transkd_ros.scenes.weather import Weather

_TEXTURE = np.zeros(256, np.float32)  # how strongly each class shows the surface texture
_TEXTURE[[BUILDING, ROAD, SIDEWALK, TREE, FENCE]] = 1.0, 0.8, 1.0, 1.2, 0.4
_TILE = 256  # texels along a side of the texture
_TEXELS = 24  # per metre
_SLACK = 32  # pixels by which the sensor's grain is larger than a frame, to be shifted in each


class Camera:
    """One camera, mounted in a car in our lane of the street."""

    def __init__(self, rng: np.random.Generator, size: tuple[int, int], street: Street) -> None:
        self.size = size
        height, width = size
        self.focal = width * rng.uniform(0.85, 1.15)
        self.centre = np.array([width * rng.uniform(0.35, 0.62), height * rng.uniform(0.42, 0.6)])
        self.eye = np.array([-street.lane * rng.uniform(0.42, 0.58), rng.uniform(1.2, 1.6), 0.0])
        u, v = np.meshgrid(np.arange(width) - self.centre[0], np.arange(height) - self.centre[1])
        self._lay_texture(rng, street, u, v)
        self._set_exposure(rng, u, v)
        self._bonnet = height * (rng.uniform(0.03, 0.09) if rng.random() < 0.2 else 0.0)

    def view(self, time: float, street: Street, weather: Weather) -> View:
        """The view, with nothing but sky yet, after `time` seconds along the street."""
        z = street.speed * time
        bob = np.array([np.sin(0.9 * time), np.sin(2.3 * time)]) * self.size[0] / 400
        return View(weather, self.focal, self.centre + bob, self.eye + np.array([0, 0, z]), *street.slopes(z))

    def paint_bonnet(self, view: View) -> None:
        """Paint the car's own bonnet into the view, where the camera sees one."""
        if self._bonnet:
            height, width = self.size
            box = (width / 2, height), (width * 1.3, self._bonnet * 2), 0
            colour = np.array((46, 48, 52)) * view.weather.light
            cv2.ellipse(view.pixels, box, (*colour.tolist(), VOID), -1)

    def photograph(self, view: View, rng: np.random.Generator) -> Image:
        """The photograph (H, W, 3) of the painted view: texture, rain, blur, vignette, white balance, grain, tone."""
        height, width = self.size
        along = np.mod(self._along + np.float32(view.eye[2] * _TEXELS % (2 * _TILE)), np.float32(2 * _TILE - 1))
        texture = cv2.remap(self._tile, along, self._across, cv2.INTER_LINEAR)
        surface = self._roughness * _TEXTURE[view.pixels[..., 3]] * texture
        image: NDArray[np.float32] = view.pixels[..., :3] + surface[..., None]
        if view.weather.rain:
            for u, v, fall in rng.uniform((0, 0, 0.02), (width, height, 0.06), (60, 3)):
                ends = (int(u), int(v)), (int(u + fall * 20), int(v + fall * height))
                cv2.line(image, *ends, (view.weather.haze * 0.85).tolist(), 1, cv2.LINE_AA)
        image = cv2.GaussianBlur(image, (3, 3), self._blur) * self._gain
        dy, dx = rng.integers(0, _SLACK, 2)
        image += self._grain[dy : dy + height, dx : dx + width]
        return self._tone[np.clip(image, 0, 255).astype(np.uint8)]

    def _lay_texture(self, rng: np.random.Generator, street: Street, u: NDArray, v: NDArray) -> None:
        """Give every pixel (u, v) from the centre the texture of what its ray meets first: ground or walls."""
        left, right = self.eye[0] + street.kerb[LEFT] + street.path[LEFT], street.edge(RIGHT) - self.eye[0]
        wall = np.where(u < 0, left, right)
        depth = self.focal * np.minimum(self.eye[1] / np.maximum(v, 1e-3), wall / np.maximum(np.abs(u), 1e-3))
        self._along = (depth * _TEXELS).astype(np.float32)
        self._across = np.mod(np.abs(u - v) * depth / self.focal * _TEXELS, 2 * _TILE - 1).astype(np.float32)
        self._roughness = (rng.uniform(10, 26) * np.exp(-depth / 25)).astype(np.float32)
        tile = smooth_noise(rng, _TILE, _TILE, (8, 40, 128, 256))
        # Mirrored, so that it repeats without a seam.
        self._tile = cv2.copyMakeBorder(tile, 0, _TILE, 0, _TILE, cv2.BORDER_REFLECT)

    def _set_exposure(self, rng: np.random.Generator, u: NDArray, v: NDArray) -> None:
        height, width = self.size
        radius = (u / width) ** 2 + (v / height) ** 2
        balance = rng.normal(1.06, 0.02, 3)
        levels = np.arange(256) / 255.0  # a dark exposure sinks the street, yet leaves the sky bright
        self._tone = np.rint(255 * levels ** rng.choice([0.8, 1.0, 1.25, 1.6])).astype(np.uint8)
        self._gain = ((1 - rng.uniform(0, 0.5) * radius)[..., None] * balance).astype(np.float32)
        grain = rng.standard_normal((height + _SLACK, width + _SLACK, 3)) * rng.uniform(1.0, 5.0)
        self._grain, self._blur = grain.astype(np.float32), rng.uniform(0.45, 0.9)
