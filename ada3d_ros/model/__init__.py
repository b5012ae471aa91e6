"""LLaVA-3D in PyTorch: vision tower, spatial tokens, prompt, decoder, checkpoints.

Knows nothing of frames, keyframes, pruning or generation. Facts: the reference code ZCMax/LLaVA-3D
at 91d979d.
"""
