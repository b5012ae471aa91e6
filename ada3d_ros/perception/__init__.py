"""Objects seen by a 2D detector, lifted into the map by depth and pose.

image -> boxes in pixels (a detector: an ONNX file, a transformers folder, or a ROS topic) -> one
3D candidate a box -> objects over many keyframes. Knows neither ROS nor the language model.
"""
