"""How a program starts: what it imports by then, and what it says of itself to a shell."""

import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PROGRAMS = sorted(
    path for path in (ROOT / "experiments").glob("*.py") if "flags.run(main" in path.read_text()
)

# Prints what of each family is imported at each stage of the launcher.
_STAGES = """
import json, sys
from dlcore import data, evaluators, models, tasks
from experiments import flags, recipes, train

registries = {
    "recipes": recipes.registry._recipes,
    "models": models.registry._entries,
    "tasks": tasks.registry._tasks,
    "evaluators": evaluators.registry._evaluators,
    "datasets": data.registration._datasets,
}

def imported():
    return {
        family: sorted(
            {
                module
                for module in registry._module.values()
                if f"{registry._package}.{module}" in sys.modules
            }
        )
        for family, registry in registries.items()
    }

stages = {"started": imported()}
train.define(flags.FlagValues(), ["train", "--recipe=lenet5_digits"])
stages["defined"] = imported()
recipes.listing()
stages["listed"] = imported()
print(json.dumps(stages))
"""

# Calls each module as `python -m` does.
_HELP = """
import runpy, sys

for name in sys.argv[1:]:
    sys.argv = [name, "--help"]
    print(f"# {name}", flush=True)
    try:
        runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        print(f"code {end.code}", flush=True)
"""


# Which programs are imported with their package, and so would run twice under `python -m`.
_TWICE = """
import sys
import dlcore.train, experiments.flags, experiments.recipes, kernels
print(*(name for name in sys.argv[1:] if f"experiments.{name}" in sys.modules))
"""


def printed(code: str, *words: str) -> str:
    """What a fresh process prints."""
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nothing_of_a_family_is_imported_before_it_is_named():
    stages: dict[str, Any] = json.loads(printed(_STAGES))
    assert not any(stages["started"].values()), stages["started"]
    assert stages["defined"] == {
        "recipes": ["lenet"],
        "models": ["lenet"],
        "tasks": ["classification"],
        "evaluators": [],
        "datasets": ["bundled"],
    }
    # A list of all recipes needs nothing of what they name.
    assert len(stages["listed"]["recipes"]) > 5
    assert {**stages["listed"], "recipes": ["lenet"]} == stages["defined"]


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """What each program says when it is asked for help."""
    output = printed(_HELP, *(path.stem for path in PROGRAMS))
    parts = [part.partition("\n") for part in f"\n{output}".split("\n# ")[1:]]
    return {name: text for name, _, text in parts}


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_help_begins_with_what_the_program_does(helps, path):
    lines = helps[path.stem].splitlines()
    assert path.read_text().startswith(f'"""{lines[0]}')
    assert "Flags:" in lines
    assert lines[-1] == "code 0"


def test_no_program_is_imported_before_it_is_run():
    assert printed(_TWICE, *(path.stem for path in PROGRAMS)).split() == []


@pytest.mark.parametrize(
    ("words", "environment", "code", "said"),
    [
        (("--list",), {"PYTHONOPTIMIZE": "2"}, 0, "lenet5_digits"),
        (
            ("--recipe=softmax_regression_iris", "--dry_run"),
            {"JAX_PLATFORMS": "cuda"},
            2,
            "error: JAX_PLATFORMS=cuda: JAX finds none here: set what is there, as cpu",
        ),
    ],
)
def test_a_start_under_unusual_conditions(words, environment, code, said):
    command = [sys.executable, "-m", "experiments.train", *words]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
