"""A long run of the segmentation node under everything that can go wrong: `python -m transkd_ros.soak`.

`node` is the node with an engine that can be made to throw, `camera` the overloaded, half malformed camera with its
jumping clock, `watch` what is heard and checked, `rounds` what is done to the node, `verdict` what it has to show. Each
process is a real one.
"""
