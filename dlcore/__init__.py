"""dlcore: classic deep-learning systems as pure JAX functions, all trained through one launcher."""

__version__ = "0.2.0"
