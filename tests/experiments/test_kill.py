"""A training that is killed at random moments and resumed each time ends as if it had not been.

Equal to the last bit: parameters, optimizer state and all else that a checkpoint holds, the bytes
of `metrics.jsonl`, the outputs on the test split, and every score.
"""

import json
import pathlib
import random
import re
import signal
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np
import pytest

from dlcore.train import Run, session
from tests.children import running

KILL, TERM = signal.SIGKILL, signal.SIGTERM
# Reads a run directory and says whether the moment has come.
Moment = Callable[[pathlib.Path], bool]

SOFTMAX = (
    "--recipe=lenet5_digits",
    "--model=softmax_regression",
    "--data.resize=0",
    "--data.augment=flip",
    "--batch_size=64",
    "--num_epochs=8",
    "--log_every=1",
    "--checkpoint_every=17",
    "--ema_decay=0.9",
    "--evaluators=-learning_curves -filters",
)


def records(directory: pathlib.Path) -> list[str]:
    path = directory / "metrics.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def records_reach(count: int) -> Moment:
    """There are so many, and the process itself has written: that it goes on, not only starts."""
    found: list[int] = []

    def reached(directory: pathlib.Path) -> bool:
        path = directory / "metrics.jsonl"
        found.append(path.stat().st_mtime_ns if path.exists() else 0)
        return found[-1] > found[0] and len(records(directory)) >= count

    return reached


def evaluation_begins(directory: pathlib.Path) -> bool:
    """An epoch's last step is recorded, and its evaluation is not."""
    last = records(directory)[-1:]
    return bool(last) and json.loads(last[0])["epoch"] % 1 == 0 and '"train"' in last[0]


def epoch_ends(directory: pathlib.Path) -> bool:
    return '"validation"' in "".join(records(directory)[-1:])


def checkpoint_is_under_way(directory: pathlib.Path) -> bool:
    return any((directory / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


def figures_are_drawn(directory: pathlib.Path) -> bool:
    return (directory / "plots").exists()


def at_once(directory: pathlib.Path) -> bool:
    return directory.exists()


def has_come(moment: Moment, directory: pathlib.Path) -> bool:
    """Looks more often than the child is asked whether it still runs."""
    for _ in range(100):
        if moment(directory):
            return True
        time.sleep(0.002)
    return False


def train(
    directory: pathlib.Path,
    words: Sequence[str],
    interruptions: Sequence[tuple[signal.Signals, Moment]],
    delays: random.Random | None = None,
) -> str:
    """Trains to the end in one process more than there are interruptions; returns all output.

    A process is interrupted as soon as the moment has come, or up to 50 ms after, as `delays` says.
    """
    command = ("-m", "experiments.train", *words, f"--workdir={directory}")
    output = ""
    for number, moment in interruptions:
        with running(directory.parent, command) as (child,):
            child.wait_until(lambda moment=moment: has_come(moment, directory))
            time.sleep(delays.uniform(0, 0.05) if delays else 0)
            child.send(number)
            code = child.exit_code()
            output += child.output
        assert code == (0 if number == TERM else -number), output
        assert not (directory / "summary.json").exists()
    with running(directory.parent, command) as (child,):
        assert child.exit_code() == 0, child.output
        output += child.output
    # However it was interrupted, no checkpoint was left half written or half deleted.
    assert "damaged" not in output
    return output


def assert_same_run(directory: pathlib.Path, expected: pathlib.Path) -> None:
    assert (directory / "metrics.jsonl").read_bytes() == (expected / "metrics.jsonl").read_bytes()
    prepared = Run(expected).session.prepared
    for which in ("newest", "best"):
        one, two = (session.restore(prepared, d, which) for d in (directory, expected))
        assert one.step == two.step
        arrays = jax.tree.leaves_with_path(jax.device_get(one.state))
        for (path, array), other in zip(arrays, jax.tree.leaves(two.state), strict=True):
            assert array.tobytes() == np.asarray(other).tobytes(), jax.tree_util.keystr(path)
    summary, other = (Run(d).summary for d in (directory, expected))
    for name in ("status", "reason", "step", "best", "validation", "test"):
        assert summary[name] == other[name]
    if (expected / "test_outputs.npz").exists():
        with (
            np.load(directory / "test_outputs.npz", allow_pickle=False) as one,
            np.load(expected / "test_outputs.npz", allow_pickle=False) as two,
        ):
            for name in two:
                assert one[name].tobytes() == two[name].tobytes()


def test_a_training_that_is_killed_ends_bitwise_equal_to_one_that_was_not(tmp_path):
    moments = random.Random(0)
    # 168 records in all: it leaves half of the way.
    reached = records_reach(moments.randrange(20, 90))
    train(tmp_path / "whole", SOFTMAX, [])
    output = train(tmp_path / "killed", SOFTMAX, [(KILL, reached)], moments)
    assert output.count("resumed at step") == 1
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


LENET = (
    "--recipe=lenet5_digits",
    "--num_epochs=6",
    "--log_every=1",
    "--checkpoint_every=7",
    # A longer evaluation is easier to hit.
    "--data.validation_fraction=0.5",
    "--data.augment=affine",
)
PATIENT = (*SOFTMAX, "--patience=2", "--learning_rate=0.05")
REACTING = (
    *SOFTMAX,
    "--schedule=plateau",
    "--plateau_patience=1",
    "--decay_factor=0.5",
    "--restart_from_best",
    "--learning_rate=0.5",
    "--prune_fraction=0.5",
    "--prune_epoch=3",
    "--ema_decay=0",
)
LSTM = (
    "--recipe=char_lstm_shakespeare",
    "--model.hidden=24",
    "--model.dropout_rate=0.2",
    "--batch_size=8",
    "--data.sequence_length=16",
    "--num_epochs=6",
    "--log_every=1",
    "--checkpoint_every=17",
)
GAN = (
    "--recipe=gan_digits",
    "--evaluators=",
    "--needs.judge=",
    "--model.generator_hidden=40",
    "--model.discriminator_hidden=20",
    "--num_epochs=8",
    "--log_every=1",
    "--checkpoint_every=17",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Callable[[Sequence[str]], pathlib.Path]:
    """The directory of the training with these flags that was never stopped, made once."""
    made: dict[Sequence[str], pathlib.Path] = {}

    def run(words: Sequence[str]) -> pathlib.Path:
        if words not in made:
            made[words] = tmp_path_factory.mktemp("whole") / "run"
            train(made[words], words, [])
        return made[words]

    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    "moments",
    [
        [checkpoint_is_under_way, records_reach(30), checkpoint_is_under_way],
        [evaluation_begins, records_reach(35), evaluation_begins],
        [epoch_ends, records_reach(25), epoch_ends],
        [at_once, figures_are_drawn, figures_are_drawn],
    ],
    ids=["saving", "evaluating", "epoch_end", "beginning_and_end"],
)
def test_lenet_killed_at_this_moment(whole, tmp_path, moments):
    train(tmp_path / "run", LENET, [(KILL, moment) for moment in moments])
    assert_same_run(tmp_path / "run", whole(LENET))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_lenet_killed_at_random_moments(whole, tmp_path, seed):
    moments = random.Random(seed)
    reached = sorted(moments.randrange(2, 40) for _ in range(3))
    train(tmp_path / "run", LENET, [(KILL, records_reach(count)) for count in reached], moments)
    assert_same_run(tmp_path / "run", whole(LENET))


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [PATIENT, REACTING, LSTM, GAN],
    ids=["patience", "plateau_and_pruning", "carry", "two_players"],
)
def test_other_trainings_killed_at_random_moments(whole, tmp_path, words):
    if words is LSTM:
        text = "the quick brown fox jumps over the lazy dog.\n" * 60
        (tmp_path / "fox.txt").write_text(text)
        words = (*words, f"--data={tmp_path / 'fox.txt'}")
    moments = random.Random(5)
    expected = whole(words)
    total = len(records(expected))
    reached = sorted(moments.randrange(2, total // 2) for _ in range(2))
    interruptions = [(KILL, records_reach(reached[0])), (TERM, records_reach(reached[1]))]
    output = train(tmp_path / "run", words, interruptions, moments)
    (stopped,) = re.findall(r"stopped \(SIGTERM at step (\d+)\), saved", output)
    assert f"resumed at step {stopped}\n" in output
    assert_same_run(tmp_path / "run", expected)
