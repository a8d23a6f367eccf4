"""A system of one's own is trained by its name, and what it leaves is opened by its module."""

import json
import pathlib
import re
import shutil

import numpy as np
import PIL.Image
import pytest

from experiments import evaluate, predict, train
from tests.children import running

OWN = "tests.experiments.own_system"
# Programs in one process that is not this one: what the module registers must not stay here.
_CALLS = """
import importlib, sys
from experiments import flags

for command in sys.argv[1:]:
    sys.argv = command.split("|")
    program = importlib.import_module(f"experiments.{sys.argv[0]}")
    print(f"# {command}", flush=True)
    try:
        flags.run(program.main, program.define)
    except SystemExit as end:
        print(f"code {end.code or 0}", flush=True)
"""


def called(directory: pathlib.Path, *commands: tuple[str | pathlib.Path, ...]) -> list[str]:
    """What each of some programs writes, and its code, one after another in a fresh process."""
    joined = ["|".join(map(str, command)) for command in commands]
    with running(directory, ("-c", _CALLS, *joined)) as (child,):
        assert child.exit_code() == 0, child.output
    outputs = re.split(r"^# .*\n", child.output, flags=re.MULTILINE)[1:]
    assert len(outputs) == len(commands)
    return outputs


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> pathlib.Path:
    """The directory of a training of one's own system by the launcher."""
    directory = tmp_path_factory.mktemp("own")
    words = ("-m", "experiments.train", f"--recipe={OWN}:recipe", "--task.temperature=0.6")
    words = (*words, "--model.units=4", f"--workdir={directory / 'run'}")
    with running(directory, words) as (child,):
        assert child.exit_code() == 0, child.output
    return directory / "run"


@pytest.fixture
def row(tmp_path) -> pathlib.Path:
    """An image with a bright row."""
    pixels = np.zeros((4, 4), np.uint8)
    pixels[1] = 200
    PIL.Image.fromarray(pixels).save(tmp_path / "row.png")
    return tmp_path / "row.png"


@pytest.mark.slow
def test_the_launcher_trains_it_with_options_of_its_own(run):
    recipe = json.loads((run / "recipe.json").read_text())
    assert recipe["imports"] == [OWN]
    assert recipe["task_options"]["temperature"] == 0.6
    assert recipe["model_options"] == {"num_classes": 2, "units": 4}
    summary = json.loads((run / "summary.json").read_text())
    assert summary["parameters"] == 16 * 4 + 4 + 4 * 2 + 2
    assert summary["test"]["accuracy"] > 0.9
    assert 0 <= summary["test"]["surest_error"] < 1


@pytest.mark.slow
def test_a_fresh_process_evaluates_it_answers_with_it_and_trains_its_phases(run, row, tmp_path):
    phased = ("train", f"--recipe={OWN}:phased", f"--workdir={tmp_path / 'phased'}")
    evaluated, answered, refused, shown, trained, opened = called(
        tmp_path,
        ("evaluate", f"--workdir={run}"),
        ("predict", f"--workdir={run}", row),
        (*phased, "--phase.warm.learning_rate=0"),
        (*phased, "--dry_run"),
        (*phased, "--phase.warm.num_epochs=2", "--num_epochs=3"),
        ("evaluate", f"--workdir={tmp_path / 'phased'}"),
    )
    accuracy = json.loads((run / "summary.json").read_text())["test"]["accuracy"]
    assert f"accuracy  {accuracy:.4f}" in evaluated
    assert answered.startswith(f"{row}: row ")
    told = "phase.warm: --phase.warm.learning_rate=0.0: it must be above 0"
    assert refused == f"error: {told}\ncode 2\n"
    assert re.findall("^phase (.*)$", shown, re.MULTILINE) == ["warm", "end"]
    assert re.search(r"parameters of hidden/\.\* +hidden/bias, hidden/kernel\n", shown)
    assert trained.endswith("code 0\n"), trained
    steps = [
        json.loads(line)["step"]
        for line in (tmp_path / "phased" / "metrics.jsonl").read_text().splitlines()
    ]
    # Two epochs of 7 steps, and three.
    assert max(steps) == 5 * 7
    score = json.loads((tmp_path / "phased" / "summary.json").read_text())["test"]["loss"]
    assert f"loss      {score:.4f}" in opened


def test_where_its_module_is_gone_that_is_said_in_one_line(call, run, row, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    text = (copy / "recipe.json").read_text()
    (copy / "recipe.json").write_text(text.replace(OWN, "my_package.gone"))
    told = "error: module 'my_package.gone' of recipe 'bars' cannot be imported (No module named"
    results = [
        call(evaluate, f"--workdir={copy}"),
        call(predict, f"--workdir={copy}", row),
        call(train, "--recipe=lenet5_digits", f"--start_from={copy}", f"--workdir={copy / 'new'}"),
    ]
    for code, output, errors in results:
        assert (code, output) == (2, "")
        assert errors.replace(f"--start_from={copy}: ", "").startswith(told)
        assert errors.count("\n") == 1
