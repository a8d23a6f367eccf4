"""Pallas kernels for the hot paths. This package imports JAX and nothing of dlcore."""
