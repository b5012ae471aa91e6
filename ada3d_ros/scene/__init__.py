"""What the robot remembers: a bounded set of posed keyframes, and the views of it that the model
gets.

keyframes holds state and nothing else: no clock, no thread, no torch device.
"""
