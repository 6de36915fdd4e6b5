"""How good a model is on a recorded drive: `python -m transkd_ros.evaluate` on a bag, `nodes/evaluation.py` live.

`scoring` adds up the masks of one camera, `truth` finds the labels, `pipeline` runs a bag through a model, `result`
holds and writes what came out, `offline_page` draws the page; `__main__` is the command. Nothing here knows ROS.
How two models agree with each other is the subject of `transkd_ros.compare`.
"""
