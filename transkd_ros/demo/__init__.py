"""The whole product at work on this machine: `python -m transkd_ros.demo`."""
