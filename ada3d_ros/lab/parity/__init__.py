"""`ada3d parity`: our numbers beside recorded ones of the reference codes."""
