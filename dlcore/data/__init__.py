"""Datasets by name, their splits, and the batches made of them."""

from dlcore.data.catalogue import load
from dlcore.data.dataset import Dataset, TrainBatches
from dlcore.data.options import SPLIT_OPTIONS, Options
from dlcore.data.prefetching import Prefetch, prefetch

__all__ = ["SPLIT_OPTIONS", "Dataset", "Options", "Prefetch", "TrainBatches", "load", "prefetch"]
