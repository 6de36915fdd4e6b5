"""The weather of a drive: its light, its haze and its sky."""

from typing import Literal, NamedTuple

import numpy as np

from transkd_ros.scenes.palette import SKY
from transkd_ros.scenes.randomness import smooth_noise

Colour = tuple[int, int, int]


class _Kind(NamedTuple):
    chance: float
    visibility: float
    brightness: float
    zenith: Colour
    haze: Colour


_CLEAR, _OVERCAST, _FOG, _RAIN, _DUSK = range(5)
WeatherName = Literal["clear", "overcast", "fog", "rain", "dusk"]
WEATHERS: dict[WeatherName, int] = {"clear": _CLEAR, "overcast": _OVERCAST, "fog": _FOG, "rain": _RAIN, "dusk": _DUSK}
_KINDS = {
    _CLEAR: _Kind(0.45, 700.0, 1.0, (112, 152, 210), (226, 228, 228)),
    _OVERCAST: _Kind(0.33, 400.0, 0.82, (188, 194, 202), (226, 226, 224)),
    _FOG: _Kind(0.08, 75.0, 0.85, (196, 198, 200), (206, 206, 206)),
    _RAIN: _Kind(0.14, 220.0, 0.7, (160, 166, 174), (190, 192, 194)),
    _DUSK: _Kind(0.0, 350.0, 0.3, (62, 60, 92), (150, 112, 98)),  # only where it is asked for
}


class Weather:
    """One kind of weather.

    rain        whether it rains
    visibility  metres over which the haze leaves 1/e of a surface's light
    light       (3,) by which surfaces are multiplied
    haze        (3,) RGB, what distant things fade into
    sun         metres of shadow, to the right, per metre of height; 0 where nothing casts one
    sky         (H, W, 4) uint8 canvas that is all sky
    """

    def __init__(self, rng: np.random.Generator, size: tuple[int, int], name: WeatherName | None = None) -> None:
        """One by chance, or the one of WEATHERS that is called so."""
        drawn = int(rng.choice(len(_KINDS), p=[kind.chance for kind in _KINDS.values()]))
        number = drawn if name is None else WEATHERS[name]
        kind = _KINDS[number]
        self.rain = number == _RAIN
        self.visibility = kind.visibility
        warmth = rng.uniform(-0.07, 0.1)
        self.light = kind.brightness * rng.uniform(0.7, 1.1) * np.array([1 + warmth, 1.0, 1 - warmth])
        self.sun = rng.choice([-1.0, 1.0]) * rng.uniform(0.2, 1.0) if number == _CLEAR else 0.0
        zenith = np.array(kind.zenith) * rng.uniform(0.85, 1.1)
        haze = np.array(kind.haze) * rng.uniform(0.9, 1.12) * (1 + warmth / 2, 1, 1 - warmth / 2)
        self.haze = np.clip(haze, 0, 255)

        height, width = size
        down = np.linspace(0, 2.2, height)[:, None, None].clip(0, 1)  # 0 at the top, 1 from the horizon on
        cover = smooth_noise(rng, height, width, (3, 6, 12, 25)) * 0.45 + rng.uniform(-0.3, 0.5)
        cloud = np.clip(cover, 0, 1)[..., None]
        blue = zenith * (1 - down) + self.haze * down
        self.sky = np.full((height, width, 4), SKY, np.uint8)
        self.sky[..., :3] = np.clip(blue * (1 - cloud) + self.haze * 1.03 * cloud, 0, 255)
