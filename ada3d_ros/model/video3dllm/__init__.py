"""Video-3D-LLM: posed RGB-D frames to tokens in frame order, a SigLIP tower, Qwen2, ground heads.

Facts: the reference code LaVi-Lab/Video-3D-LLM at 3ff70e8.
"""
