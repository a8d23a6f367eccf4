"""Checkpoints: what was saved comes back bit for bit, or is known to be damaged."""

import contextlib
import gc
import logging
import math
import pathlib
import shutil
import sys
import unittest.mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec, SingleDeviceSharding

from dlcore import memory
from dlcore.errors import TrainingError, UsageError
from dlcore.train import checkpoint, manifest
from dlcore.train.checkpoint import Checkpoints
from tests.limits import limited_file_size

PROGRESS = {"log_position": 123, "best": None, "callbacks": {"EarlyStopping": {"waited": 1}}}


def state_of(step: int) -> dict:
    """A small state with what states are made of: several types, a scalar, an absent part."""
    rng = np.random.default_rng(step)
    return {
        "step": jnp.asarray(step, jnp.int32),
        "params": {
            "kernel": jnp.asarray(rng.normal(size=(16, 8)), jnp.float32),
            "half": jnp.asarray(rng.normal(size=5), jnp.bfloat16),
        },
        "opt_state": (jnp.asarray([np.nan, np.inf, -0.0]), {"count": jnp.zeros((), jnp.int32)}),
        "rng": jnp.asarray(rng.integers(2**32, size=2), jnp.uint32),
        "average": None,
        "metrics": {},
    }


def abstract(state, sharding=None):
    return jax.tree.map(
        lambda array: jax.ShapeDtypeStruct(
            array.shape, array.dtype, sharding=sharding or array.sharding
        ),
        state,
    )


def assert_bitwise_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


@contextlib.contextmanager
def opened(directory: pathlib.Path, **options):
    checkpoints = Checkpoints(directory / "checkpoints", **options)
    try:
        yield checkpoints
    finally:
        checkpoints.close()


def contents(directory: pathlib.Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
    """A run directory with checkpoints of the steps 1 and 2, the older one better: copy it."""
    directory = tmp_path_factory.mktemp("run")
    with opened(directory) as checkpoints:
        checkpoints.save(1, state_of(1), PROGRESS, watched=0.9)
        checkpoints.save(2, state_of(2), PROGRESS, watched=0.8)
    return directory


@pytest.fixture
def copy(run, tmp_path) -> pathlib.Path:
    return shutil.copytree(run, tmp_path / "copy")


def test_what_was_saved_comes_back_bit_for_bit_into_another_process(run):
    with opened(run, read_only=True) as checkpoints:
        restored = checkpoints.restore_newest(abstract(state_of(0)))
    assert restored.step == 2
    assert restored.progress == PROGRESS
    assert_bitwise_equal(restored.state, state_of(2))


def test_an_empty_directory_restores_nothing(tmp_path):
    with opened(tmp_path) as checkpoints:
        assert checkpoints.restore_newest(abstract(state_of(0))) is None
        with pytest.raises(UsageError, match="train first"):
            checkpoints.find("best")


def test_the_state_may_be_donated_as_soon_as_save_returns(tmp_path):
    count_up = jax.jit(lambda array: array + 1, donate_argnums=0)
    state = {"large": jnp.zeros(4_000_000)}
    with opened(tmp_path) as checkpoints:
        for step in range(1, 7):
            state["large"] = count_up(state["large"])
            if step == 2:
                checkpoints.save(step, state, {})
        checkpoints.wait()
        restored = checkpoints.restore(abstract(state), 2)
    np.testing.assert_array_equal(restored.state["large"], np.full(4_000_000, 2, np.float32))


def test_a_sharded_state_is_restored_onto_one_device_and_back(tmp_path):
    device = SingleDeviceSharding(jax.devices()[0])
    split = NamedSharding(jax.make_mesh((8,), ("data",)), PartitionSpec("data"))
    kernel = state_of(1)["params"]["kernel"]
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, {"kernel": jax.device_put(kernel, split)}, {})
        checkpoints.save(2, {"kernel": jax.device_put(kernel, device)}, {})
        checkpoints.wait()
        for step, sharding in ((1, device), (2, split)):
            restored = checkpoints.restore(abstract({"kernel": kernel}, sharding), step)
            assert restored.state["kernel"].sharding.is_equivalent_to(sharding, 2)
            assert_bitwise_equal(restored.state, {"kernel": kernel})


# Which checkpoints stay, and which is best.


@settings(max_examples=6, deadline=None)
@given(
    scores=st.lists(
        st.sampled_from([None, math.nan, math.inf, 0.1, 0.2, 0.3]), min_size=3, max_size=7
    ),
    keep=st.integers(1, 3),
    mode=st.sampled_from(["max", "min"]),
    interrupted_after=st.integers(1, 3),
)
@example(scores=[0.1, 0.3, 0.2], keep=2, mode="min", interrupted_after=2)
@example(scores=[0.1, 0.3, 0.2], keep=2, mode="max", interrupted_after=2)
def test_the_newest_few_and_the_best_stay_also_across_a_resume(
    tmp_path_factory, scores, keep, mode, interrupted_after
):
    directory = tmp_path_factory.mktemp("kept")
    numbered = list(enumerate(scores, start=1))
    for part in (numbered[:interrupted_after], numbered[interrupted_after:]):
        with opened(directory, keep=keep, mode=mode) as checkpoints:
            for step, score in part:
                checkpoints.save(step, {"step": jnp.asarray(step)}, {}, watched=score)
    sign = {"max": 1, "min": -1}[mode]
    watched = [(sign * score, step) for step, score in numbered if score and math.isfinite(score)]
    best = max(watched, default=(None, len(scores)))[1]
    newest = range(len(scores) + 1 - keep, len(scores) + 1)
    with opened(directory, mode=mode, read_only=True) as checkpoints:
        expected = {step for step in newest if step > 0} | {best}
        assert checkpoints.steps() == sorted(expected)
        assert checkpoints.find("best") == best
        assert checkpoints.find("newest") == len(scores)


def test_a_checkpoint_can_be_named_and_only_by_a_word_that_there_is(run):
    with opened(run, read_only=True) as checkpoints:
        assert checkpoints.find("1") == 1
        with pytest.raises(UsageError, match=r"^checkpoint=latest: it is best, newest or"):
            checkpoints.find("latest")
        with pytest.raises(UsageError, match=r"no checkpoint of step 7 .* there is 1, 2"):
            checkpoints.restore(abstract(state_of(0)), 7)


def test_looking_changes_nothing(copy):
    before = contents(copy), {path: path.stat().st_mtime_ns for path in copy.rglob("*")}
    with opened(copy, read_only=True) as checkpoints:
        checkpoints.restore(abstract(state_of(0)), checkpoints.find("best"))
    assert before == (contents(copy), {path: path.stat().st_mtime_ns for path in copy.rglob("*")})


def test_looking_where_nothing_is_makes_nothing(tmp_path):
    with opened(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == []
    assert list(tmp_path.iterdir()) == []


# Damage.


def emptied(path: pathlib.Path) -> None:
    path.write_bytes(b"")


def cut_in_half(path: pathlib.Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def first_byte_changed(path: pathlib.Path) -> None:
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 0xFF]) + content[1:])


def last_byte_changed(path: pathlib.Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 0xFF]))


def replaced(content: bytes):
    def harm(path: pathlib.Path) -> None:
        path.write_bytes(content)

    return harm


# What JSON may hold, and no file of ours does.
STRANGE = {
    "empty_object": b"{}",
    "list": b"[1, 2]",
    "text": b'"text"',
    "text_for_a_number": b'{"step": "2", "files": {}, "watched": "high", "seconds": []}',
    "name_with_nul": b'{"step": 2, "files": {"a\\u0000b": "1"}}',
    "file_for_all": b'{"step": 2, "files": {}}',
    "deep": b"[" * 2000 + b"]" * 2000,
}


# Orbax writes these after the manifest, and restores nothing from them.
CARRY_NOTHING = {"commit_success.txt", "_CHECKPOINT_METADATA"}


def vital_files(directory: pathlib.Path) -> list[str]:
    return sorted(contents(directory).keys() - CARRY_NOTHING)


@pytest.mark.parametrize(
    "harm",
    [
        pathlib.Path.unlink,
        *(
            pytest.param(harm, marks=pytest.mark.slow)
            for harm in (emptied, cut_in_half, first_byte_changed, last_byte_changed)
        ),
    ],
    ids=lambda harm: harm.__name__,
)
def test_whichever_file_is_damaged_the_older_checkpoint_is_used_and_training_goes_on(
    run, tmp_path, caplog, harm
):
    names = vital_files(run / "checkpoints" / "2")
    assert len(names) > 10
    for number, name in enumerate(names):
        directory = shutil.copytree(run, tmp_path / str(number))
        harm(directory / "checkpoints" / "2" / name)
        harmed = contents(directory / "checkpoints" / "2")
        caplog.clear()
        with caplog.at_level(logging.WARNING), opened(directory) as checkpoints:
            restored = checkpoints.restore_newest(abstract(state_of(0)))
            assert restored.step == 1, name
            assert_bitwise_equal(restored.state, state_of(1))
            assert "checkpoint 2 is damaged" in caplog.text, name
            # Nothing is lost of what was left.
            assert contents(directory / "damaged" / "2") == harmed, name
            checkpoints.save(2, state_of(2), PROGRESS)
        with opened(directory, read_only=True) as checkpoints:
            assert checkpoints.steps() == [1, 2], name
            assert_bitwise_equal(
                checkpoints.restore_newest(abstract(state_of(0))).state, state_of(2)
            )


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_changed_byte_is_noticed_or_changes_nothing(run, tmp_path_factory, data):
    source = run / "checkpoints" / "2"
    path = source / data.draw(st.sampled_from(vital_files(source)))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    directory = tmp_path_factory.mktemp("byte")
    step = shutil.copytree(source, directory / "checkpoints" / "2")
    (step / path.relative_to(source)).write_bytes(content)
    if manifest.damage(step) is None:
        # Such as a digit of the time at which it was saved, or a space in the manifest.
        with opened(directory, read_only=True) as checkpoints:
            restored = checkpoints.restore_newest(abstract(state_of(0)))
        assert_bitwise_equal(restored.state, state_of(2))
        assert restored.progress == PROGRESS
    shutil.rmtree(directory)


@pytest.mark.parametrize("name", sorted(CARRY_NOTHING))
@pytest.mark.parametrize(
    "harm",
    [
        pathlib.Path.unlink,
        emptied,
        cut_in_half,
        first_byte_changed,
        last_byte_changed,
        replaced(b"{}"),
    ],
)
def test_the_files_that_carry_nothing_are_not_missed(copy, name, harm):
    harm(copy / "checkpoints" / "2" / name)
    with opened(copy) as checkpoints:
        assert_bitwise_equal(checkpoints.restore_newest(abstract(state_of(0))).state, state_of(2))


@pytest.mark.parametrize("content", STRANGE.values(), ids=STRANGE)
@pytest.mark.parametrize(
    "name",
    [manifest.NAME, "progress/metadata", "metrics/metrics", "_CHECKPOINT_METADATA"],
)
def test_metadata_that_hold_something_else_are_damage(copy, name, content):
    (copy / "checkpoints" / "2" / name).write_bytes(content)
    with opened(copy) as checkpoints:
        # Orbax needs nothing of its own description, if that is an object.
        unread = name == "_CHECKPOINT_METADATA" and content.startswith(b"{")
        assert checkpoints.restore_newest(abstract(state_of(0))).step == 1 + unread


@pytest.mark.parametrize("copied", [False, True])
def test_a_folder_under_another_number_is_not_believed(copy, caplog, copied):
    folder = copy / "checkpoints"
    if copied:
        shutil.copytree(folder / "2", folder / "7")
    else:
        (folder / "2").rename(folder / "7")
    with opened(copy) as checkpoints:
        assert "checkpoint 7 is damaged (it was written as that of step 2)" in caplog.text
        assert checkpoints.steps() == [1, 2][: 1 + copied]
        assert checkpoints.lost == 7


def test_a_reader_takes_the_next_one_where_a_training_deletes_what_it_found(copy, caplog):
    asked = []

    def reader(checkpoints, step):
        asked.append(step)
        if len(asked) == 1:
            # The training saves, and deletes what it no longer keeps.
            with opened(copy, keep=1, mode="min") as training:
                training.save(3, state_of(3), PROGRESS, watched=0.1)
        return checkpoints.restore(abstract(state_of(0)), step)

    restored = checkpoint.read(copy / "checkpoints", "max", "newest", reader)
    assert (asked, restored.step) == ([2, 3], 3)
    assert "damaged" not in caplog.text


def test_what_goes_while_it_is_looked_at_is_not_damaged(copy, caplog, monkeypatch):
    original = manifest.damage

    def damage(directory):
        if directory.name == "1":
            shutil.rmtree(directory)
        return original(directory)

    monkeypatch.setattr(manifest, "damage", damage)
    with opened(copy, read_only=True) as checkpoints:
        assert checkpoints.steps() == [2]
    assert "damaged" not in caplog.text


def test_a_checkpoint_that_was_being_deleted_is_no_damaged_one(copy, monkeypatch, caplog):
    with monkeypatch.context() as patch:
        # As if the process were killed in the middle of deleting the first one.
        patch.setattr(checkpoint.shutil, "rmtree", lambda *_, **__: None)
        with opened(copy, keep=1, mode="min") as checkpoints:
            checkpoints.save(3, state_of(3), PROGRESS, watched=0.1)
    (copy / "checkpoints" / "obsolete" / "1" / manifest.NAME).unlink()
    for read_only in (True, False):
        with opened(copy, read_only=read_only) as checkpoints:
            assert checkpoints.steps() == [3]
    assert "damaged" not in caplog.text
    assert [path.name for path in (copy / "checkpoints").iterdir()] == ["3"]


def test_all_damaged_checkpoints_are_set_aside_and_none_is_overwritten_there(copy, run):
    def harm():
        for step in ("1", "2"):
            (copy / "checkpoints" / step / manifest.NAME).unlink()

    harm()
    with opened(copy) as checkpoints:
        assert checkpoints.restore_newest(abstract(state_of(0))) is None
        for step in (1, 2):
            checkpoints.save(step, state_of(step), PROGRESS)
    harm()
    with opened(copy) as checkpoints:
        assert checkpoints.steps() == []
    aside = {path.name for path in (copy / "damaged").iterdir()}
    assert aside == {"1", "2", "1-again", "2-again"}
    original = contents(run / "checkpoints" / "1")
    del original[manifest.NAME]
    assert contents(copy / "damaged" / "1") == original


@pytest.mark.parametrize("file", ["metrics/metrics", "progress/metadata", "state/_METADATA"])
def test_a_damaged_checkpoint_is_reported_and_passed_over_by_who_only_looks(copy, caplog, file):
    emptied(copy / "checkpoints" / "1" / file)
    before = contents(copy)
    with caplog.at_level(logging.WARNING), opened(copy, read_only=True) as checkpoints:
        assert "checkpoint 1 is damaged" in caplog.text
        assert checkpoints.steps() == [2]
        assert checkpoints.find("best") == 2  # Although 1 was better.
        with pytest.raises(UsageError, match=rf"1 is damaged: {file}"):
            checkpoints.restore(abstract(state_of(0)), 1)
    assert contents(copy) == before


def test_an_unfinished_checkpoint_does_not_count_and_is_cleaned_up_by_the_next_save(copy):
    finished = copy / "checkpoints" / "2"
    unfinished = copy / "checkpoints" / "3.orbax-checkpoint-tmp"
    shutil.copytree(finished, unfinished)
    with opened(copy, read_only=True) as checkpoints:
        assert checkpoints.steps() == [1, 2]
    assert unfinished.exists()
    with opened(copy) as checkpoints:
        assert checkpoints.restore_newest(abstract(state_of(0))).step == 2
        checkpoints.save(3, state_of(3), PROGRESS)
    assert sorted(path.name for path in finished.parent.iterdir()) == ["1", "2", "3"]


# What is no checkpoint of this training.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"params": {"kernel": jnp.zeros((16, 9)), "half": jnp.zeros(5, jnp.bfloat16)}},
            r"params/kernel is float32\[16, 8\] there and float32\[16, 9\] here",
        ),
        (
            {"params": {"kernel": jnp.zeros((16, 8))}},
            r"params/half is bfloat16\[5\] .* absent here",
        ),
        ({"average": {"kernel": jnp.zeros((16, 8))}}, "average/kernel is absent there"),
        ({"rng": jnp.zeros(2, jnp.int32)}, r"rng is uint32\[2\] there and int32\[2\] here"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_by_the_parameters_name(copy, change, message):
    before = contents(copy)
    with opened(copy) as checkpoints:  # noqa: SIM117
        with pytest.raises(UsageError, match=f"of another model: .*{message}"):
            checkpoints.restore_newest(abstract({**state_of(0), **change}))
    assert contents(copy) == before


def test_a_checkpoint_of_another_optimizer_is_refused_as_such(copy):
    other = {**state_of(0), "opt_state": (jnp.zeros(3), {})}
    with opened(copy) as checkpoints:  # noqa: SIM117
        with pytest.raises(UsageError, match="another optimizer or version: opt_state/1/count"):
            checkpoints.restore_newest(abstract(other))


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path):
    (tmp_path / "checkpoints").write_text("notes")
    with pytest.raises(UsageError, match="checkpoints cannot hold checkpoints"):
        Checkpoints(tmp_path / "checkpoints")
    assert (tmp_path / "checkpoints").read_text() == "notes"


# TensorStore's own threads still report to Orbax's event loop, which is closed by then.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("newest", [2, 3])
def test_a_full_disk_is_a_clear_error_and_leaves_the_older_checkpoint(copy, newest):
    large = {**state_of(4), "rng": jnp.asarray(np.random.default_rng(0).normal(size=2**18))}
    checkpoints = Checkpoints(copy / "checkpoints")
    if newest == 3:
        checkpoints.save(3, state_of(3), PROGRESS)
        checkpoints.wait()

    def save_two():
        # The first one is waited for, any other is noticed by the next.
        for step in (4, 5):
            checkpoints.save(step, large, PROGRESS)

    with limited_file_size(2**16), pytest.raises(TrainingError) as raised:
        save_two()
    place = checkpoints.directory
    assert str(raised.value) == (
        f"a checkpoint could not be written to {place}: File too large; last good checkpoint: "
        f"step {newest} in {place / str(newest)}"
    )
    assert checkpoints.steps()[-1] == newest
    with opened(copy) as checkpoints:
        assert checkpoints.restore_newest(abstract(state_of(0))).step == newest


def test_what_cannot_be_read_back_ends_the_run_at_the_first_checkpoint(tmp_path, monkeypatch):
    # Such a name is refused: without that, Orbax writes what it does not find again.
    monkeypatch.setattr(checkpoint, "unreadable", lambda directory: None)
    checkpoints = Checkpoints(tmp_path / "[x]" / "checkpoints")
    with pytest.raises(TrainingError, match=r"checkpoints/1 cannot be read back: "):
        checkpoints.save(1, state_of(1), PROGRESS)


def test_other_numbers_than_were_saved_end_the_run_at_the_first_checkpoint(tmp_path, monkeypatch):
    restore = checkpoint.ocp.StandardCheckpointHandler.restore

    def changed(*arguments, **words):
        state = restore(*arguments, **words)
        state["params"]["kernel"][-1, -1] *= 1 + 2**-23
        return state

    monkeypatch.setattr(checkpoint.ocp.StandardCheckpointHandler, "restore", changed)
    with contextlib.closing(Checkpoints(tmp_path / "checkpoints")) as checkpoints:  # noqa: SIM117
        with pytest.raises(TrainingError, match=r"checkpoints/1 is read back with other numbers"):
            checkpoints.save(1, state_of(1), PROGRESS)


@pytest.mark.parametrize("processes", [1, 64])
def test_a_state_too_large_for_every_process_at_once_is_not_read_back(
    tmp_path, monkeypatch, processes
):
    read = []
    monkeypatch.setattr(Checkpoints, "_prove", lambda self, step, state: read.append(step))
    state = state_of(1)
    monkeypatch.setattr(checkpoint, "_READ_BACK_BYTES", 63 * memory.of_arrays(state))
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    monkeypatch.setattr(checkpoints, "_manager", unittest.mock.MagicMock())
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    checkpoints.save(1, state, PROGRESS)
    assert read == ([1] if processes == 1 else [])


def test_a_save_leaves_nothing_in_memory(tmp_path):
    with contextlib.closing(Checkpoints(tmp_path / "checkpoints")) as checkpoints:
        for step in range(1, 31):
            checkpoints.save(step, state_of(step), PROGRESS)
            checkpoints.wait()
            if step == 10:
                gc.collect()
                before = sys.getallocatedblocks()
        gc.collect()
        # Some of what TensorStore gives to Orbax stays: see `make soak`.
        assert (sys.getallocatedblocks() - before) / 20 < 120


@pytest.mark.parametrize("name", ["[x]", "a*b", "a?b", "a\\b", "logs:"])
def test_a_path_below_which_nothing_could_be_read_back_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match="cannot hold checkpoints: checkpoints below .* could not"):
        Checkpoints(tmp_path / name / "checkpoints")
    assert not (tmp_path / name).exists()


def test_any_other_name_holds_checkpoints(tmp_path):
    directory = tmp_path / "{a} b%20c ä:d~#$;'|!:" / "checkpoints"
    with contextlib.closing(Checkpoints(directory)) as checkpoints:
        checkpoints.save(1, {"x": jnp.arange(3.0)}, {})
    with contextlib.closing(Checkpoints(directory)) as checkpoints:
        restored = checkpoints.restore({"x": jax.ShapeDtypeStruct((3,), jnp.float32)}, 1)
    assert restored.state["x"].tolist() == [0, 1, 2]
