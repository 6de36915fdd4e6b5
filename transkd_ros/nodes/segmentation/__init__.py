"""The segmentation node."""
