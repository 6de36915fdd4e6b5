# The package in a ROS 2 image: docker build --build-arg ROS_DISTRO=jazzy -t transkd_ros .
#   docker run --rm -it --net=host --ipc=host transkd_ros ros2 launch transkd_ros segment.launch.py cameras:=front
ARG ROS_DISTRO=jazzy
FROM ros:${ROS_DISTRO}-ros-base AS dependencies
COPY package.xml /tmp/transkd_ros/
COPY .ci/ros_dependencies /tmp/transkd_ros/.ci/
RUN /tmp/transkd_ros/.ci/ros_dependencies && rm -rf /tmp/transkd_ros

FROM dependencies
WORKDIR /ros2_ws
COPY . src/transkd_ros
RUN . /opt/ros/$ROS_DISTRO/setup.sh && colcon build && rm -rf build log
# The image's own entry point sources /opt/ros; this one the workspace on top of it.
RUN printf '#!/bin/bash\nset -e\nsource /ros2_ws/install/setup.bash\nexec "$@"\n' >/entrypoint && chmod +x /entrypoint
ENTRYPOINT ["/entrypoint"]
CMD ["ros2", "launch", "transkd_ros", "segment.launch.py"]
