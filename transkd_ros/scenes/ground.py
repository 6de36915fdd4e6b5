"""What is painted behind everything else: the skyline, then the ground with its markings and shadows."""

import cv2
import numpy as np

from transkd_ros.scenes.palette import BUILDING, ROAD, SIDEWALK, TREE, WALLS
from transkd_ros.scenes.randomness import Seeds
from transkd_ros.scenes.street import LEFT, RIGHT, Street
from transkd_ros.scenes.view import DISC, FAR, SHIFT, View, rectangles


def paint_skyline(view: View, street: Street, rng: np.random.Generator) -> None:
    """Paint the distant houses and trees that end the view."""
    for x in range(-130, 130, 9):
        built = rng.random() < street.built - 0.2
        colour = np.array(WALLS[rng.integers(len(WALLS))]) * 0.8 if built else np.array((62, 72, 48))
        tall, half = rng.uniform(4, 11), rng.uniform(5, 9)
        shape = [(-half, -3), (half, -3), (half, tall), (-half, tall)] if built else DISC * (half, tall)
        view.card(shape, (x, 0, view.eye[2] + FAR), colour, BUILDING if built else TREE)


def paint_ground(view: View, street: Street, seeds: Seeds) -> None:
    """Paint grass, sidewalks, kerbs and road, then what is marked on the road and the shadows on all of it."""
    rng = seeds.generator(3)
    tar = np.array((98, 98, 100)) * rng.uniform(0.8, 1.25) * (0.75 if view.weather.rain else 1.0)
    slab = np.array((140, 134, 126)) * rng.uniform(0.8, 1.2)
    left, right = -street.kerb[LEFT], street.kerb[RIGHT]
    view.band(-90, 90, (86, 98, 52), TREE)  # grass counts as vegetation
    view.band(street.edge(LEFT), street.edge(RIGHT), slab, SIDEWALK)
    view.band(left - 0.15, right + 0.15, slab * 1.2, SIDEWALK)
    view.band(left, right, tar, ROAD)
    gutter_line = (190, 160, 70) if rng.random() < 0.4 else tar * 1.6
    for x in (left + 0.35, right - 0.35):
        view.band(x - 0.06, x + 0.06, gutter_line, ROAD)
    dash = np.array([z for z, _ in seeds.cells(view.eye[2], 6.0, stream=4)])
    view.fill(rectangles(-0.06, 0.06, 0, 0, dash, dash + rng.choice([2.0, 4.0])), (215, 215, 210), ROAD)
    for z, cell in seeds.cells(view.eye[2], 45.0, stream=5):
        if cell.random() < 0.4:  # a zebra crossing
            stripe = np.arange(left + 0.5, right - 0.6, 1.1)
            view.fill(rectangles(stripe, stripe + 0.55, 0, 0, z + 10, z + 13), (220, 220, 216), ROAD)
    if view.weather.sun:
        _shade(view, street, seeds)


def _shade(view: View, street: Street, seeds: Seeds) -> None:
    """Darken the ground where the houses on the sun's side keep the light off; keep its class."""
    edge = street.edge(LEFT if view.weather.sun > 0 else RIGHT)
    shade = np.zeros(view.pixels.shape[:2], np.uint8)
    for z, rng in seeds.cells(view.eye[2], 11.0, stream=6):
        end = edge + view.weather.sun * rng.uniform(3, 12) * street.height
        shadow = view.project(rectangles(edge, end, 0, 0, z, z + 11))
        cv2.fillPoly(shade, list(shadow), 255, cv2.LINE_8, SHIFT)
    labels = view.pixels[..., 3]
    shade[(labels < ROAD) | (labels > TREE)] = 0  # on road, sidewalk and grass only
    dark = cv2.multiply(view.pixels, np.array([0.5, 0.53, 0.58, 1.0]))
    cv2.copyTo(dark, shade, view.pixels)
