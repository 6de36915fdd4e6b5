"""What the labels mean, and the colours that several kinds of things are painted with.

A colour that only one thing has stands where that thing is painted.
"""

SKY, BUILDING, POLE, ROAD, SIDEWALK, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST = range(11)  # as in CamVid
VOID = 255

# RGB, before light and haze
WALLS = [
    (150, 98, 76),
    (176, 160, 128),
    (205, 196, 178),
    (120, 80, 66),
    (142, 136, 126),
    (190, 172, 140),
    (96, 88, 84),
]
PAINTS = [  # of cars and front doors
    (28, 28, 32),
    (165, 168, 172),
    (225, 225, 222),
    (130, 24, 28),
    (36, 54, 104),
    (72, 80, 84),
    (30, 74, 56),
]
CLOTHES = [  # and shop signs
    (30, 30, 38),
    (60, 66, 90),
    (120, 36, 40),
    (150, 146, 138),
    (52, 74, 56),
    (190, 186, 176),
    (88, 70, 56),
]
