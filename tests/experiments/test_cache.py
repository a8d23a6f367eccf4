"""Where compiled programs are kept."""

import pathlib

import jax
import pytest

from dlcore import paths
from experiments import cache


@pytest.fixture
def updates(monkeypatch):
    """What is set in JAX's configuration, which stays as it is."""
    set_now = {}
    monkeypatch.setattr(jax.config, "update", set_now.__setitem__)
    return set_now


def test_compiled_programs_are_kept_in_the_users_cache(updates, monkeypatch):
    monkeypatch.setattr(paths, "cache", lambda: pathlib.Path("/scratch/dlcore"))
    cache.use()
    assert updates["jax_compilation_cache_dir"] == "/scratch/dlcore/jax"


def test_who_has_no_home_directory_compiles_each_time(updates, monkeypatch):
    monkeypatch.setattr(paths, "cache", lambda: None)
    cache.use()
    assert not updates
