"""Posed RGB-D from files: rosbag2 recordings and image folders; and the writer of bags.

Every source is an iterable of RgbdFrame with `dropped`, a count per FrameReason of what it could
not use. Nothing here imports rclpy; images.py is the one place where pixel encodings become arrays,
also for the node.
"""
