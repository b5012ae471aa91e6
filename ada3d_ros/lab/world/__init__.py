"""The synthetic world: rooms with furniture, a camera's views of them, questions with true answers.

Everything is a pure function of a split and a seed, batched in torch, the same on every device.
`train` learns from it, `eval` measures on it, the demo shows it. No ROS here, and nothing of the
model.
"""
