"""Training the embedded model: a small LLaVA-3D from nothing, in stages, resumable."""
