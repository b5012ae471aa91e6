"""Generation: KV cache, prefill, decode, sampling, stage clock, and the slow reference engine.

Acts on the decoder between layer ranges; knows nothing of frames, checkpoints or ROS.
"""
