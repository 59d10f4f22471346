"""Kernels of other libraries that tuned ones are compared with: a module for each family."""
