"""Pure functions on cameras, poses, voxels, boxes and fused depth.

camera and voxel work on torch tensors (they run on the model's device); pose, boxes and fusion on
numpy float64. Nothing here reads a clock, a file, a message or a setting.
"""
