"""LLaVA-NeXT (v1.6): one image as itself and as crops of a grid that fits its shape."""
