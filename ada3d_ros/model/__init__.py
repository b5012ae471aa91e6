"""LLaVA-3D in PyTorch: vision tower, spatial tokens, prompt, decoder, checkpoints.

Knows nothing of frames, keyframes, pruning or generation. Facts: the reference code ZCMax/LLaVA-3D
at 91d979d.
"""

import logging

# transformers imports torchao, which warns of every CUDA extension that does not load (nothing of
# ours uses them) and of what torch will deprecate.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
