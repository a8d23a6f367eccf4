"""Decoded images survive in the cache, and only where they are still what was decoded."""

import os
import pathlib
import time

import numpy as np
import pytest

from dlcore import paths
from dlcore.data import cache


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Asks the cache for the images of a folder; counts how often they had to be made."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    directory = tmp_path / "shapes" / "1.0.0"
    directory.mkdir(parents=True)
    (directory / "shard").write_text("abc")

    class Asked:
        made = 0
        path = directory

        def __call__(self, split="train", resize=0, names=("image",)):
            def make(names):
                self.made += 1
                arrays = {
                    "image": {"": np.full((3, 2, 2, 1), self.made, np.uint8)},
                    "label": {"": np.arange(3, dtype=np.int32), "_mask": np.ones(3, np.float32)},
                    "text": {"": np.array(["a", "bc", ""], object)},
                }
                return {name: arrays[name] for name in names}

            files = cache.fingerprint(sorted(directory.iterdir()))
            return cache.cached(directory, split, (resize,), files, names, make)

        @property
        def files(self):
            return sorted((tmp_path / "cache" / "dlcore").iterdir())

    return Asked()


def test_what_was_made_is_found_again(cached):
    made, found = (cached(names=("image", "label")) for _ in range(2))
    assert cached.made == 1
    assert found.keys() == made.keys() == {"image", "label"}
    for name, parts in made.items():
        assert found[name].keys() == parts.keys()
        for part, array in parts.items():
            np.testing.assert_array_equal(found[name][part], array)
            assert found[name][part].dtype == array.dtype


def test_only_features_that_are_not_there_are_made(cached):
    cached()
    both = cached(names=("label", "image"))
    assert (cached.made, both["image"][""].max()) == (2, 1)
    assert len(cached.files) == 2


def test_texts_are_read_anew_each_time_and_stored_nowhere(cached):
    for _ in range(2):
        assert cached(names=("text",))["text"][""].tolist() == ["a", "bc", ""]
    assert cached.made == 2
    cached()
    assert len(cached.files) == 1


def test_each_split_and_size_has_its_own(cached):
    for _ in range(2):
        cached("train"), cached("test"), cached("train", 32)
    assert cached.made == 3


@pytest.mark.parametrize("change", ["content", "new file", "removed"])
def test_files_that_have_changed_are_read_anew(cached, change):
    cached()
    if change == "content":
        (cached.path / "shard").write_text("abcd")
    elif change == "new file":
        (cached.path / "shard-1").write_text("")
    else:
        (cached.path / "shard").unlink()
    assert cached()["image"][""].max() == 2
    assert cached()["image"][""].max() == 2
    assert len(cached.files) == 1


def test_a_cache_file_cut_anywhere_is_made_anew(cached):
    cached()
    (file,) = cached.files
    whole = file.read_bytes()
    for length in range(0, len(whole), len(whole) // 12):
        file.write_bytes(whole[:length])
        made = cached.made
        assert cached()["image"][""].max() == made + 1
        assert cached.files == [file]


def test_a_flipped_byte_is_noticed(cached):
    cached()
    (file,) = cached.files
    damaged = bytearray(file.read_bytes())
    place = damaged.index(b"\x01" * 12)
    damaged[place] = 77
    file.write_bytes(damaged)
    assert cached()["image"][""].max() == 2


def test_a_cache_that_cannot_be_written_is_done_without(cached, tmp_path):
    (tmp_path / "cache").write_text("a file where the directory should be")
    assert cached()["image"][""].max() == 1
    assert cached()["image"][""].max() == 2


def test_a_file_in_the_place_of_another_is_another_though_size_and_time_agree(cached):
    before = (cached.path / "shard").stat()
    cached()
    (cached.path / "new").write_text("xyz")
    (cached.path / "new").replace(cached.path / "shard")
    os.utime(cached.path / "shard", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert cached()["image"][""].max() == 2


def test_what_lies_behind_a_link_is_part_of_the_fingerprint(tmp_path):
    (tmp_path / "there").write_text("a")
    (tmp_path / "link").symlink_to(tmp_path / "there")
    before = cache.fingerprint([tmp_path / "link"])
    assert cache.fingerprint([tmp_path / "link"]) == before
    (tmp_path / "there").write_text("ab")
    assert cache.fingerprint([tmp_path / "link"]) != before


@pytest.mark.parametrize("directory", ["/", "/mnt", "/mnt/data/faces"])
def test_every_file_is_in_the_cache_wherever_the_data_lie(tmp_path, monkeypatch, directory):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    written = []
    monkeypatch.setattr(cache, "_write", lambda path, *_: written.append(path))
    arrays = {"image": {"": np.zeros(1)}}
    cache.cached(pathlib.Path(directory), "train", (), "", ("image",), lambda names: arrays)
    [path] = written
    assert path.parent == tmp_path / "dlcore"


def test_without_a_home_directory_there_is_no_cache_and_no_error(cached, monkeypatch):
    monkeypatch.setattr(paths, "cache", lambda: None)
    assert cached()["image"][""].max() == 1
    assert cached()["image"][""].max() == 2


def test_what_a_killed_process_left_is_removed_and_what_is_being_written_stays(cached, tmp_path):
    folder = tmp_path / "cache" / "dlcore"
    folder.mkdir(parents=True)
    for name, age in (("old.partial", 7200), ("new.partial", 60), ("other.npz", 7200)):
        (folder / name).write_text("")
        os.utime(folder / name, (time.time() - age,) * 2)
    cached()
    assert {"new.partial", "other.npz"} < {path.name for path in cached.files}
    assert not (folder / "old.partial").exists()
    assert len(cached.files) == 3


def test_a_killed_process_leaves_what_a_later_one_knows(cached, monkeypatch):
    """Killed in the middle of its writing, when nothing of it can clean up."""
    monkeypatch.setattr(pathlib.Path, "unlink", lambda *_, **__: None)
    monkeypatch.setattr(pathlib.Path, "replace", lambda *_: None)
    cached()
    assert [path.suffix for path in cached.files] == [".partial"]
