"""`python -m transkd_ros.nodes.segmentation`, where `ros2 run` is not installed."""

import sys

from transkd_ros.nodes.segmentation.node import main

sys.exit(main())
