"""Many robots, one server: the robot keeps its keyframes, the server the model and its caches."""
