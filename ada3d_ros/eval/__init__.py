"""Evaluation: parity with the recorded reference (parity, golden_case)."""
