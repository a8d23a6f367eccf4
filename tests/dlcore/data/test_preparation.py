"""Preparing datasets, with TensorFlow and the download played."""

import importlib.util

import pytest
import tensorflow_datasets as tfds

from dlcore.data import preparation
from dlcore.errors import UsageError


@pytest.fixture
def _tensorflow(monkeypatch):
    """As if TensorFlow were installed."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())


@pytest.fixture
def download(monkeypatch):
    """Stands in for TFDS's download; collects what it was asked to prepare."""
    prepared = []
    monkeypatch.setattr(
        tfds.core.DatasetBuilder,
        "download_and_prepare",
        lambda builder: prepared.append((builder.name, builder.info.file_format.value)),
    )
    return prepared


@pytest.mark.usefixtures("_tensorflow")
def test_a_dataset_is_prepared_as_array_records_in_the_data_directory(tmp_path, download):
    directory = preparation.prepare("mnist", tmp_path)
    assert download == [("mnist", "array_record")]
    assert directory.parent == tmp_path / "mnist"


def test_a_prepared_dataset_is_left_alone(tmp_path):
    directory = tmp_path / "mnist" / "3.0.1"
    directory.mkdir(parents=True)
    (directory / "dataset_info.json").touch()
    assert preparation.prepare("mnist", tmp_path) == directory


def test_missing_tensorflow_is_answered_with_the_extra_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs TensorFlow, .*: pip install 'dlcore\[prepare\]'"):
        preparation.prepare("mnist", tmp_path)


@pytest.mark.usefixtures("_tensorflow")
def test_a_misspelled_dataset_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(UsageError, match="TFDS has no dataset 'mnits': did you mean .*mnist"):
        preparation.prepare("mnits", tmp_path)


@pytest.mark.usefixtures("_tensorflow")
def test_a_failed_download_is_one_line(tmp_path, monkeypatch):
    def fail(builder):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(UsageError, match="cannot prepare 'mnist' in .*: no route to host"):
        preparation.prepare("mnist", tmp_path)


def test_bundled_datasets_need_none(tmp_path):
    with pytest.raises(UsageError, match="'digits' is bundled"):
        preparation.prepare("digits", tmp_path)
