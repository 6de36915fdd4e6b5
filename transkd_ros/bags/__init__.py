"""rosbag2 bags in and out, and the image folders that become one. No ROS installation needed."""
