"""Two processes train as one does, stop together, and neither outlives the other by a minute."""

import json
import pathlib
import re
import signal

import jax
import numpy as np
import pytest

from dlcore import processes
from dlcore.train import Run, session
from experiments import flags, train
from tests import children
from tests.experiments.conftest import launch

# Twenty steps an epoch, of a network with batch normalization and dropout. `test_parallel.py` says
# why it is compared tensor by tensor, and why at this tolerance.
RECIPE = (
    "--recipe=lenet5_digits",
    "--model=mlp",
    "--model.hidden=32",
    "--model.normalization=batch",
    "--model.dropout_rate=0.2",
    "--data.resize=0",
    "--data.augment=flip",
    "--optimizer=momentum",
    "--learning_rate=0.1",
    "--schedule=constant",
    "--batch_size=64",
)
TOLERANCE = 1e-5
ONE = ("-m", "experiments.train", *RECIPE)


def two(directory, *words, parallelism="data"):
    """The commands of two processes that train together."""
    address = f"--coordinator_address=localhost:{children.free_port()}"
    together = (f"--parallelism={parallelism}", "--distributed", address, "--num_processes=2")
    return [
        (*ONE, f"--workdir={directory}", *words, *together, f"--process_id={index}")
        for index in range(2)
    ]


def records(directory):
    path = directory / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def lines_of_errors(child):
    return re.findall("^error: .*", child.output, re.MULTILINE)


def final_state(directory):
    prepared = Run(directory).session.prepared
    return jax.device_get(session.restore(prepared, directory, "newest").state)


def assert_same_training(one: pathlib.Path, other: pathlib.Path) -> None:
    expected, state = final_state(one), final_state(other)
    for (path, first), second in zip(
        jax.tree.leaves_with_path(expected), jax.tree.leaves(state), strict=True
    ):
        first, second = np.float64(first), np.float64(second)
        difference = np.linalg.norm(first - second) / (np.linalg.norm(first) or 1.0)
        assert difference < TOLERANCE, jax.tree_util.keystr(path)
    for first, second in zip(records(one), records(other), strict=True):
        assert (second["step"], second["split"]) == (first["step"], first["split"])
        assert second["loss"] == pytest.approx(first["loss"], rel=1e-4)


@pytest.fixture(scope="module")
def one_device(tmp_path_factory):
    """`one_device(flags)`: the directory of an uninterrupted training on one device."""
    made = {}

    def run(*plan):
        if plan not in made:
            made[plan] = launch(tmp_path_factory.mktemp("one") / "run", *RECIPE, *plan)
        return made[plan]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("parallelism", ["data", "fsdp"])
def test_two_processes_of_two_devices_train_as_one_device_does(tmp_path, one_device, parallelism):
    commands = two(tmp_path / "run", "--num_epochs=1", parallelism=parallelism)
    with children.running(tmp_path, *commands, devices=2) as both:
        for child in both:
            assert child.exit_code() == 0, child.output
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    names = {path.name for path in (tmp_path / "run" / "plots").iterdir()}
    assert names == {"learning_curves.png", "confusion_matrix.png"}
    assert summary["step"] == 20
    assert summary["devices"]["processes"] == 2
    assert summary["devices"]["count"] == 4
    alone = one_device("--num_epochs=1")
    assert_same_training(alone, tmp_path / "run")
    expected = json.loads((alone / "summary.json").read_text())
    assert summary["test"]["loss"] == pytest.approx(expected["test"]["loss"], rel=1e-4)


@pytest.mark.slow
def test_two_processes_lower_the_rate_and_go_back_together(tmp_path, one_device):
    # So low a rate that no evaluation is better than the first.
    plan = ("--num_epochs=3", "--schedule=plateau", "--plateau_patience=1", "--learning_rate=1e-7")
    plan = (*plan, "--restart_from_best", "--recompute_statistics")
    with children.running(tmp_path, *two(tmp_path / "run", *plan), devices=2) as both:
        for child in both:
            assert child.exit_code() == 0, child.output
            assert child.output.count("back to the parameters of step 20") == 2
    assert_same_training(one_device(*plan), tmp_path / "run")


# Signals to one of two.


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("victim", [0, 1])
def test_where_one_is_killed_or_stopped_the_other_ends_within_a_minute(tmp_path, victim, number):
    directory = tmp_path / "run"
    commands = two(directory, "--num_epochs=100000", "--evaluate_every=100000", "--log_every=5")
    with children.running(tmp_path, *commands, devices=2) as both:
        both[0].wait_until(lambda: len(records(directory)) > 1)
        both[victim].send(number)
        other = both[1 - victim]
        code = other.exit_code(limit=60)
    assert code == 1, other.output
    # A broken connection may end the collective of one device only, while the other waits for its
    # peer: then a death, too, is known by the time without progress.
    silence = "no progress for 20 s, another process of this run is stuck, stopped or dead"
    death = "another process of this run died"
    told = f"{death}|{silence}" if number == signal.SIGKILL else silence
    (line,) = lines_of_errors(other)
    assert re.match(rf"error: at step \d+: ({told})", line), other.output
    for noise in ("Check failure", "terminate called"):
        assert noise not in other.output
    assert "Traceback" not in other.output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "parallelism", "resumed_as"),
    [((1,), "data", "jit"), ((0, 1), "fsdp", "data")],
)
def test_a_request_to_stop_saves_in_both_and_one_process_can_go_on(
    tmp_path, one_device, asked, parallelism, resumed_as
):
    directory = tmp_path / "run"
    plan = ("--num_epochs=50", "--evaluate_every=50")
    commands = two(directory, *plan, parallelism=parallelism)
    with children.running(tmp_path, *commands, devices=2) as both:
        both[0].wait_until(lambda: records(directory))
        for index in asked:
            both[index].send(signal.SIGTERM)
        for child in both:
            assert child.exit_code(limit=60) == 0, child.output
    (step,) = re.findall(r"^stopped \(SIGTERM at step (\d+)\), saved", both[0].output, re.MULTILINE)
    assert [path.name for path in (directory / "checkpoints").iterdir()] == [step]
    alone = (*ONE, f"--workdir={directory}", *plan, f"--parallelism={resumed_as}")
    with children.running(tmp_path, alone, devices=8) as (child,):
        assert child.exit_code() == 0, child.output
    assert f"resumed at step {step}" in child.output
    layout = f"{resumed_as} on {1 if resumed_as == 'jit' else 8}"
    assert f"made under {parallelism} on 4, this is {layout}: equal to rounding" in child.output
    assert_same_training(one_device(*plan), directory)


# Faults at any stage.

# As `experiments.train`, but at a stage something happens, and limits are short.
FAULTY = """
import os, signal, time
from dlcore import liveness, processes
from experiments import flags, train

processes.HEARTBEAT_TIMEOUT_SECONDS = liveness.STILL_SECONDS = 15
say = processes.at

def at(stage):
    say(stage)
    if stage.startswith({stage!r}):
        print("now", flush=True)
        {fault}

processes.at = at
flags.run(train.main, train.define)
"""


def with_program(command, program):
    return ("-c", program, *command[len(("-m", "experiments.train")) :])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "victim"), [("step 1", 1), ("the checkpoint", 0), ("the report", 1)]
)
def test_where_one_dies_compiling_saving_or_reporting_the_other_says_so_in_one_line(
    tmp_path, stage, victim
):
    commands = two(tmp_path / "run", "--num_epochs=1")
    kill = "os.kill(os.getpid(), signal.SIGKILL)"
    for index, fault in ((victim, kill), (1 - victim, "pass")):
        program = FAULTY.format(stage=stage, fault=fault)
        commands[index] = with_program(commands[index], program)
    with children.running(tmp_path, *commands, devices=2) as both:
        assert both[victim].exit_code() == -signal.SIGKILL
        other = both[1 - victim]
        assert other.exit_code(limit=60) == 1, other.output
    (line,) = lines_of_errors(other)
    assert re.match("error: at (the|step) .*: another process of this run died", line), other.output
    for noise in ("Traceback", "Check failure", "terminate called"):
        assert noise not in other.output


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["the claim", "the report"])
def test_where_one_is_blocked_outside_of_the_loop_both_end(tmp_path, stage):
    commands = [
        with_program(command, FAULTY.format(stage=stage, fault=fault))
        for command, fault in zip(
            two(tmp_path / "run", "--num_epochs=1"), ("time.sleep(600)", "pass"), strict=True
        )
    ]
    with children.running(tmp_path, *commands, devices=2) as both:
        both[0].wait_until(lambda: "now" in both[0].output)
        for child in both:
            assert child.exit_code(limit=60) == 1, child.output
            (line,) = lines_of_errors(child)
            assert "no process of this run does anything any more, one of them is stuck" in line
            assert re.search(f"process(es)? 0.* at {stage}", line)
            assert "Traceback" not in child.output


# What is refused.


def test_all_flags_are_to_be_the_same_but_those_that_are_one_process_s(monkeypatch):
    given = []
    monkeypatch.setattr(processes, "start", lambda *arguments: given.append(arguments))
    for index, words in enumerate((["--data_dir=/a"], ["--data_dir=/b", "--dry_run"])):
        line = [*ONE[1:], *words, "--distributed", f"--process_id={index}"]
        values = flags.FlagValues()
        flags._read(values, [*line, f"--coordinator_address=host{index}:99"], train.define)
        flags.join_processes(values)
    (first, second) = (arguments[3] for arguments in given)
    assert first.keys() == second.keys()
    assert {name for name in first if first[name] != second[name]} == {"dry_run"}
    assert {"parallelism", "workdir", "seed", "model.hidden"} <= first.keys()


OTHER_IMAGES = """
from dlcore.data import bundled
from experiments import flags, train

def digits(images=bundled._digits):
    found, labels = images()
    return found[::-1], labels

bundled._digits = digits
flags.run(train.main, train.define)
"""


@pytest.mark.slow
@pytest.mark.parametrize("difference", ["flags", "images"])
def test_processes_that_are_not_alike_end_before_they_train(tmp_path, difference):
    first, second = two(tmp_path / "run", "--num_epochs=1")
    if difference == "flags":
        second, told = (*second, "--dry_run"), "--dry_run is False on process 0 and True on process"
    else:
        second, told = with_program(second, OTHER_IMAGES), "the fingerprint of train is "
    with children.running(tmp_path, first, second, devices=2) as both:
        for child in both:
            assert child.exit_code(limit=60) == 2, child.output
            (line,) = lines_of_errors(child)
            assert line.startswith(f"error: {told}")
            assert "Traceback" not in child.output
    assert not (tmp_path / "run").exists()


def test_a_task_that_needs_its_examples_in_order_refuses_every_layout_but_jit_by_name(
    call, tmp_path
):
    for parallelism in ("pmap", "data", "fsdp"):
        words = ("--recipe=perceptron_digits", f"--parallelism={parallelism}")
        code, _, errors = call(train, *words, f"--workdir={tmp_path / 'run'}")
        assert code == 2
        assert errors == f"error: --parallelism={parallelism} cannot train this task: use jit\n"
    assert not (tmp_path / "run").exists()


def test_processes_that_cannot_find_each_other_are_told_how_at_once(tmp_path):
    words = (*ONE, "--distributed", f"--workdir={tmp_path / 'run'}")
    with children.running(tmp_path, words) as (child,):
        assert child.exit_code() == 2
    (line,) = child.output.splitlines()
    assert line.startswith("error: the processes could not start (")
    assert "give --coordinator_address=HOST:PORT, --num_processes and --process_id" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "parallelism", "message"),
    [
        (("--batch_size=62",), "data", "--batch_size=62 does not divide over 4 devices: it must"),
        (("--batch_size=64",), "pmap", "--parallelism=pmap uses one process's devices: with"),
    ],
)
def test_both_processes_refuse_what_both_find_wrong(tmp_path, words, parallelism, message):
    commands = two(tmp_path / "run", *words, parallelism=parallelism)
    with children.running(tmp_path, *commands, devices=2) as both:
        assert [child.exit_code() for child in both] == [2, 2]
    for child in both:
        (line,) = lines_of_errors(child)
        assert line.startswith(f"error: {message}")
        assert "Traceback" not in child.output


@pytest.mark.slow
def test_where_the_first_process_refuses_the_directory_both_do(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with children.running(tmp_path, *two(tmp_path / "run"), devices=2) as both:
        assert [child.exit_code() for child in both] == [2, 2]
    (line,) = lines_of_errors(both[0])
    assert "holds files but no recipe.json" in line
    (line,) = lines_of_errors(both[1])
    assert "refused by process 0" in line
    assert list((tmp_path / "run").iterdir()) == [tmp_path / "run" / "notes.txt"]
