"""Paths that a user names."""

import pathlib
import pwd

import pytest

from dlcore import paths
from dlcore.errors import UsageError
from tests.limits import limited_file_size


def test_the_home_directory_stands_in_the_place_of_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.local("~/runs", "workdir") == tmp_path / "runs"
    assert paths.local(pathlib.Path("~"), "workdir") == tmp_path


@pytest.mark.parametrize("name", ["runs/a", "/runs/~", "C:/runs", "a:b", "runs/gs://x", "./gs:/x"])
def test_other_names_are_left_as_they_are(name):
    assert paths.local(name, "workdir") == pathlib.Path(name)


@pytest.mark.parametrize("scheme", ["gs", "s3", "hdfs", "file", "https", "S3"])
@pytest.mark.parametrize("kind", [str, pathlib.Path])
def test_an_address_elsewhere_is_refused_by_its_scheme(scheme, kind):
    name = kind(f"{scheme}://bucket/runs")
    with pytest.raises(
        UsageError, match=f"workdir={name}: {scheme}:// is not supported: name a path on this"
    ):
        paths.local(name, "workdir")


def test_what_nothing_can_be_called_is_refused_with_the_systems_reason(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    reasons = {
        "": "is empty: name a path",
        "x" * 300: "File name too long",
        str(tmp_path / "file" / "x"): "a part of it is a file, where a directory is needed",
        str(tmp_path / "loop"): "Too many levels of symbolic links",
        "a\0b": "embedded null",
    }
    for name, reason in reasons.items():
        with pytest.raises(UsageError, match=f"^workdir=.*{reason}") as refused:
            paths.local(name, "workdir")
        assert len(str(refused.value)) < 400


def test_a_file_that_does_not_fit_is_named_and_leaves_the_one_that_was_there(tmp_path):
    path = tmp_path / "weights"
    paths.write_whole(path, b"of before")
    with limited_file_size(2**10), pytest.raises(OSError, match="File too large: .*/weights'"):
        paths.write_whole(path, bytes(2**11))
    assert path.read_bytes() == b"of before"
    assert list(tmp_path.iterdir()) == [path]
    paths.write_whole(path, b"another")
    assert path.read_bytes() == b"another"
    with pytest.raises(FileNotFoundError, match="none/weights"):
        paths.write_whole(tmp_path / "none" / "weights", b"")


def test_where_something_is_to_be_written_nothing_is_made_before(tmp_path):
    (tmp_path / "file").write_text("")
    assert paths.to_write(tmp_path / "new" / "run", "output") == tmp_path / "new" / "run"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    with pytest.raises(UsageError, match="output=.*file is a file: name a directory"):
        paths.to_write(tmp_path / "file", "output")
    with pytest.raises(UsageError, match="output=/proc/new/run cannot be written: in /proc no"):
        paths.to_write("/proc/new/run", "output")


def test_a_user_without_a_home_directory_is_named():
    with pytest.raises(UsageError, match="output=~no-such-user/x: ~no-such-user has no home"):
        paths.local("~no-such-user/x", "output")


def test_the_cache_is_where_the_environment_says_or_below_home(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/scratch/cache")
    assert paths.cache() == pathlib.Path("/scratch/cache/dlcore")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/ada")
    assert paths.cache() == pathlib.Path("/home/ada/.cache/dlcore")


@pytest.fixture
def no_home(monkeypatch):
    """A process as a container runs it for a number that no user has."""

    def unknown(number):
        raise KeyError(number)

    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.usefixtures("no_home")
def test_who_has_no_home_directory_has_no_cache():
    assert paths.cache() is None
    with pytest.raises(UsageError, match="workdir=~/runs: ~ has no home directory here"):
        paths.local("~/runs", "workdir")
