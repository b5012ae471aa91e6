"""The laboratory: worlds to train and measure in, benchmarks, analyses, parity. Nothing of the
robot imports it.
"""
