"""Processes that run kernels, whether a result is right, and how long it took."""
