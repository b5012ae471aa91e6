"""Everything that speaks ROS: the node, its inputs and outputs, clients, replay.

The only folder that imports rclpy, messages, tf2, cv_bridge or message_filters. It converts, queues
and reports; it decides nothing about scenes, models or boxes.
"""
