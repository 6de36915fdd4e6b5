"""A teacher and a student side by side: `python -m transkd_ros.compare` on a bag, `nodes/comparison.py` live.

`pairing` brings the two masks of a frame together, `agreement` keeps the account of one camera, `pictures` draws who
differs where, `pair_page` writes comparison.json and the page; `__main__` is the command. Nothing here knows ROS.
How well masks agree with a ground truth is the subject of `transkd_ros.evaluate`.
"""
