"""Scenes that survive: a folder of named ones, each keyframe an mcap, an SQLite index beside them.

Knows nothing of ROS or torch. docs/how-to/keep-scenes.md has the layout of the folder.
"""
