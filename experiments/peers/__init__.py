"""Networks and train steps in PyTorch, the twins of models of `dlcore`, to compare with.

They run in a Python of their own that has PyTorch (`make peers`); `experiments.pytorch` starts it
and asks it over a pipe, and nothing else of ours imports them. One file holds a family. Its classes
register themselves under the names of our models, follow options of the same names and defaults,
and refuse all others. Their layers have our names.
"""
