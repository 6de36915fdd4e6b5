"""Rendered driving views with exact per-pixel labels.

A small painter's-algorithm renderer of a British street, seen from a moving car under varied light and weather. Colour
and class are the four channels of one canvas and every shape is filled once, so a label is exact by construction.

`sequence` puts a drive together. What it is made of: `street` (the plan), `weather` and `camera`. What is painted:
`ground`, `plots`, `trees`, `furniture`, `cars` and `people`, all through the canvas in `view`, with the classes and
colours of `palette` and the generators of `randomness`.

Axes in metres: x to the right of the road's centre line, y up from the road, z forward along the street.
"""

from transkd_ros.scenes.sequence import Drive, drive

__all__ = ["Drive", "drive"]
