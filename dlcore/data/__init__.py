"""Datasets by name, their splits, and the batches made of them."""

from dlcore.data import features
from dlcore.data.catalog import data_directory, load, located, options_kind, places
from dlcore.data.dataset import Dataset, HostBatch, Needs, TrainBatches
from dlcore.data.description import describe
from dlcore.data.examples import from_arrays
from dlcore.data.needs import match
from dlcore.data.options import ExampleOptions, Options, TextOptions
from dlcore.data.prefetching import Prefetch, prefetch
from dlcore.data.registration import names, register

__all__ = [
    "Dataset",
    "ExampleOptions",
    "HostBatch",
    "Needs",
    "Options",
    "Prefetch",
    "TextOptions",
    "TrainBatches",
    "data_directory",
    "describe",
    "features",
    "from_arrays",
    "load",
    "located",
    "match",
    "names",
    "options_kind",
    "places",
    "prefetch",
    "register",
]
