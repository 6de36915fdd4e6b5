"""A drive as a sequence of labelled frames: what is made once for a drive, and what is painted for each frame."""

from collections.abc import Iterator, Sequence

import numpy as np

from transkd_ros.scenes.cars import cars
from transkd_ros.scenes.furniture import furniture
from transkd_ros.scenes.ground import paint_ground, paint_skyline
from transkd_ros.scenes.people import cyclists, walkers
from transkd_ros.scenes.photograph import Camera
from transkd_ros.scenes.plots import plots
from transkd_ros.scenes.randomness import Seeds
from transkd_ros.scenes.street import Street
from transkd_ros.scenes.trees import grow
from transkd_ros.scenes.view import Image, Thing, View
from transkd_ros.scenes.weather import WEATHERS, Weather


class Drive:
    """One drive through a rendered town: the same seed gives the same sequence on every machine."""

    def __init__(self, seed: int, size: tuple[int, int] = (360, 480), weather: str | None = None) -> None:
        """Lay out drive `seed` (an integer >= 0) for frames of `size` (height, width), 64..8192 pixels each.

        `weather` is one of WEATHERS, by default the drive's own; another one may move the camera, too. Raises
        ValueError for any other argument.
        """
        if weather is not None and weather not in WEATHERS:
            raise ValueError(f"weather must be one of {', '.join(WEATHERS)}, not {weather!r}")
        if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
            raise ValueError(f"seed must be an integer >= 0, not {seed!r}")
        if (
            not isinstance(size, Sequence)
            or len(size) != 2
            or not all(isinstance(n, int | np.integer) and 64 <= n <= 8192 for n in size)
        ):
            raise ValueError(f"size must be (height, width) in 64..8192 pixels, not {size!r}")
        self.seed, self.size = int(seed), (int(size[0]), int(size[1]))
        self._seeds = Seeds(self.seed)
        rng = self._seeds.generator()
        self._street = Street(rng)
        self._weather = Weather(rng, self.size, weather)
        self._camera = Camera(rng, self.size, self._street)
        self._trees = [grow(self._seeds.generator(1, i)) for i in range(5)]

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
        view = self._camera.view(time, self._street, self._weather)
        paint_skyline(view, self._street, self._seeds.generator(2))
        paint_ground(view, self._street, self._seeds)
        for _, paint in sorted(self._things(view, time), key=lambda thing: -thing[0]):  # the farthest first
            paint()
        self._camera.paint_bonnet(view)
        image = self._camera.photograph(view, self._seeds.generator(9, int(index)))
        return image, np.ascontiguousarray(view.pixels[..., 3])

    def _things(self, view: View, time: float) -> Iterator[Thing]:
        """All that stands upright in the view."""
        yield from plots(view, self._street, self._seeds, self._trees)
        yield from furniture(view, self._street, self._seeds, self._trees)
        yield from cars(view, self._street, self._seeds, time)
        yield from walkers(view, self._street, self._seeds, time)
        yield from cyclists(view, self._street, self._seeds, time)


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
