"""The parts of `training/adapt.py`: its recipe, what the teachers said, the held-out stretch, and the page."""
