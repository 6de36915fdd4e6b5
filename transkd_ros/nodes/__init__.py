"""ROS 2 nodes: thin shells around the modules of the package. Only this folder imports rclpy."""
