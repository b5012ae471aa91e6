"""What the robot remembers: posed keyframes, the views of them that the model gets, their voxels.

keyframes holds state and nothing else: no clock, no thread, no torch device.
"""
