"""`ada3d bench` and `ada3d bench-node`: speed and memory beside rivals, as result files."""
