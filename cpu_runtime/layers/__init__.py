"""Weights and kernels made callable: each layer is composed of these, and none knows a model family by name."""
