"""Spatial-token pruning: schedules, information contribution, rankings, selections, costs.

Two kinds of strategy: before the language model (`pre_llm`) and between its layers (`in_llm`). They
get tensors and counts; they never see the model, frames or ROS. Study: docs/pruning.md.
"""
