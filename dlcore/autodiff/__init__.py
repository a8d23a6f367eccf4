"""Differentiation as the lectures teach it, in float64 NumPy: three ways besides `jax.grad`.

`dual` carries derivatives forward with the values, `backprop` is back-propagation written out by
hand, `numerical` takes differences. They are for reading and for checking; training uses JAX.
"""
