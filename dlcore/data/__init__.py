"""Datasets by name, their splits, and the batches made of them."""

from dlcore.data.catalogue import load
from dlcore.data.dataset import Dataset, TrainBatches
from dlcore.data.options import Options
from dlcore.data.prefetching import Prefetch, prefetch

__all__ = ["Dataset", "Options", "Prefetch", "TrainBatches", "load", "prefetch"]
