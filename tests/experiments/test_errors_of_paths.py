"""Paths that cannot be used: one clear line that names the flag, before any work."""

import os

import pytest

from experiments import (
    benchmark,
    evaluate,
    export,
    find_rate,
    predict,
    prepare,
    reproduce,
    study,
    train,
)
from experiments import compile as compile_
from experiments import models as table_of_models
from tests.experiments.conftest import DIGITS_RUN
from tests.experiments.refusals import DIGITS, SOFTMAX, assert_refused, files

# Every flag that names a path: the program, what else it is given, the flag, and whether what it
# names is written. {run} is a run directory.
FLAGS = [
    (train, SOFTMAX, "--workdir", True),
    (find_rate, SOFTMAX[:1], "--workdir", True),
    (study, ("--study=hopfield",), "--workdir", True),
    (reproduce, ("--recipes=lenet5_digits",), "--workdir", True),
    (evaluate, (), "--workdir", False),
    (predict, ("photo.png",), "--workdir", False),
    (export, (), "--workdir", False),
    (export, ("--workdir={run}",), "--output", True),
    (prepare, ("--dataset=mnist",), "--data_dir", True),
    (train, (*SOFTMAX, "--workdir=new"), "--data_dir", False),
    (find_rate, (*SOFTMAX[:1], "--workdir=new"), "--data_dir", False),
    (reproduce, ("--recipes=lenet5_digits", "--workdir=new"), "--data_dir", False),
    (evaluate, ("--workdir={run}",), "--data_dir", False),
    (predict, ("--workdir={run}", "{run}/recipe.json"), "--data_dir", False),
    (export, ("--workdir={run}",), "--data_dir", False),
    (benchmark, ("--recipes=lenet5_digits",), "--data_dir", False),
    (compile_, (*SOFTMAX[:1], "--target=tpu:v5e"), "--data_dir", False),
    (study, ("--study=landscape",), "--runs", False),
]
# Those of one file, or of whatever is there.
OF_FILES = [
    (train, (*SOFTMAX, "--workdir=new"), "--data"),
    (train, (*SOFTMAX, "--workdir=new"), "--start_from"),
    (train, SOFTMAX, "--flagfile"),
    (table_of_models, (), "--plot"),
    (predict, ("--workdir={run}",), "file"),
]
PLACES = {
    "gs://b/x": "gs:// is not supported",
    "~no-such-user/x": "~no-such-user has no home directory",
    "x" * 300: "File name too long",
    "x/" * 3000: "File name too long",
    "note.txt/x": "a part of it is a file, where a directory is needed",
    "loop": "Too many levels of symbolic links",
    "no\0thing": "embedded null",
}


@pytest.fixture
def refused(call, digits_run, tmp_path, monkeypatch):
    """Calls a program with a flag, and sees that it is refused by its name before any work."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "note.txt").write_text("A note.")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "closed").mkdir(mode=0o500)
    before = sorted(tmp_path.rglob("*"))

    def refuse(program, words, flag, place, message):
        given = place if flag == "file" else f"{flag}={place}"
        result = call(program, *(word.format(run=digits_run) for word in words), given)
        assert_refused(result, flag, message)
        assert len(result[2]) < 500, "a line can be read"
        assert sorted(tmp_path.rglob("*")) == before

    return refuse


def test_a_path_where_nothing_can_be_is_refused_by_every_program(refused):
    for program, words, flag in [*OF_FILES, *((*row[:2], row[2]) for row in FLAGS)]:
        for place, message in PLACES.items():
            refused(program, words, flag, place, message)


def test_a_file_in_the_place_of_a_directory_is_refused_by_every_program(refused):
    for program, words, flag, _ in FLAGS:
        refused(program, words, flag, "note.txt", "note.txt is a file: name a directory")


def test_what_is_to_be_written_has_to_be_writable(refused):
    # Nothing can be made in /proc; to the superuser, no directory of his own is closed.
    places = ["/proc/new", *([] if os.geteuid() == 0 else ["closed/new", "closed"])]
    for program, words, flag, _ in filter(lambda row: row[3], FLAGS):
        for place in places:
            refused(program, words, flag, place, f"{place} cannot be written: in ")
    refused(table_of_models, (), "--plot", "/proc/new.png", "cannot be written: in /proc")


def test_an_empty_path_is_a_mistake_unless_it_stands_for_none(refused):
    for program, words, flag in [*OF_FILES, *((*row[:2], row[2]) for row in FLAGS)]:
        if flag not in ("--start_from", "--runs"):  # Without weights, or runs, of one's own.
            refused(program, words, flag, "", "is empty: name a path")


@pytest.mark.parametrize("program", [train, evaluate, export], ids=lambda one: one.__name__)
@pytest.mark.parametrize("part", ["[x]", "a\\b"])
def test_a_workdir_whose_checkpoints_could_not_be_read_back_is_refused(refused, program, part):
    words = SOFTMAX if program is train else ()
    refused(program, words, "--workdir", f"runs/{part}", f"below {part} could not be read back")


def test_a_file_of_flags_is_read_before_the_flags_are_known(call, tmp_path):
    (tmp_path / "flags").write_text("--recipe=lenet5_digits\n--model=mlp\n--model.hidden=0\n")
    assert_refused(
        call(train, f"--flagfile={tmp_path / 'flags'}", f"--workdir={tmp_path / 'new'}"),
        "--model.hidden=0: it must be at least 1",
    )
    (tmp_path / "flags").write_bytes(b"\xff\xfe")
    assert_refused(call(train, f"--flagfile={tmp_path / 'flags'}"), "--flagfile", "is no text")
    assert_refused(call(train, f"--flagfile={tmp_path}"), f"--flagfile={tmp_path} is no file")


def test_flags_may_come_through_a_pipe(call, tmp_path):
    reading, writing = os.pipe()
    os.write(writing, b"--recipe=lenet5_digits\n--model.dropout_rate=2\n--model=mlp\n")
    os.close(writing)
    try:
        result = call(train, f"--flagfile=/dev/fd/{reading}", f"--workdir={tmp_path / 'new'}")
    finally:
        os.close(reading)
    assert_refused(result, "--model.dropout_rate=2", "it must be at least 0 and below 1")


def test_a_pipe_in_the_place_of_weights_is_not_waited_for(call, tmp_path):
    pipe = tmp_path / "w.safetensors"
    os.mkfifo(pipe)
    result = call(train, *DIGITS, f"--start_from={pipe}", f"--workdir={tmp_path / 'new'}")
    assert_refused(result, f"--start_from={pipe}: it is neither a file nor a directory")


def test_home_stands_for_a_tilde(call, digits_run, monkeypatch):
    monkeypatch.setenv("HOME", str(digits_run.parent))
    code, output, _ = call(train, *DIGITS_RUN, f"--workdir=~/{digits_run.name}")
    assert code == 0
    assert f"{digits_run}: this run is complete" in output


@pytest.mark.parametrize("program", [train, find_rate], ids=["train", "find_rate"])
def test_a_workdir_in_the_data_is_refused(call, pictures, program):
    before = files(pictures)
    words = (*SOFTMAX[:1], "--model=softmax_regression", f"--data={pictures}")
    result = call(program, *words, f"--workdir={pictures / 'run'}")
    assert_refused(result, f"--workdir={pictures / 'run'} lies in the data, {pictures}")
    assert files(pictures) == before
