"""The plan of a street: how wide it is, what lines it and how it bends. Nothing is painted here."""

import numpy as np

LEFT, RIGHT = 0, 1  # index what a street has on either side
OUTWARD = (-1, 1)  # the sign of x on either side


class Street:
    """The plan of one street.

    lane               width of one of the two lanes
    parking            (2,) bool, whether cars park on the left and on the right
    kerb, path         (2,) from the centre line to either kerb, and the width of either sidewalk
    built              share of the plots that carry a building
    leafy, busy        0..1, how many street trees, and how many cars and walkers
    height             what the houses' heights are multiplied by
    bend, hill, phase  how strongly the road bends and climbs, and where along its waves it begins
    speed              metres per second at which we drive along it
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.lane = rng.uniform(2.7, 3.7)
        self.parking = rng.random(2) < (0.3, 0.4)
        self.kerb = self.lane + 2.1 * self.parking + rng.uniform(0.0, 0.5)
        self.path = rng.uniform(1.8, 4.5, 2)
        self.built, self.leafy, self.busy = rng.uniform(0.5, 0.97), rng.uniform(0.2, 0.75), rng.uniform(0.15, 0.6)
        self.height = rng.uniform(0.75, 1.5)
        self.bend, self.hill, self.phase = rng.normal(0, 0.0006), rng.normal(0, 0.00006), rng.uniform(0, 6)
        self.speed = rng.uniform(4.0, 11.0)

    def edge(self, side: int) -> float:
        """The x at which the sidewalk ends and the plots begin, LEFT or RIGHT."""
        return OUTWARD[side] * (self.kerb[side] + self.path[side])

    def slopes(self, z: float) -> tuple[float, float]:
        """The bend and the hill that a View at z sees."""
        wave = np.sin(z / 60 + self.phase)
        return self.bend * wave, self.hill * wave
