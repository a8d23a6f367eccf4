"""Studies by name: each in the module of its name, imported when it is asked for."""

import json
import pathlib
import pkgutil
import subprocess
import sys

from dlcore.analysis import studies

# Which studies' modules are there after each line.
_LOOK = """
import json, sys

def imported():
    package = "dlcore.analysis.studies."
    return sorted(name.removeprefix(package) for name in sys.modules if name.startswith(package))

from dlcore.analysis import studies
seen = [studies.names() and imported()]
studies.create("units", points=3)
seen.append(imported())
from experiments import flags, study
values = flags.FlagValues()
study.define(values, ["study", "--study=hopfield"])
seen.append(imported())
print(json.dumps(seen))
"""


def test_every_module_of_the_package_is_a_study_of_its_name():
    assert studies.names() == sorted(
        module.name for module in pkgutil.iter_modules(studies.__path__)
    )
    for name in studies.names():
        assert studies.kind(name).__module__ == f"{studies.__name__}.{name}"


def test_only_the_study_that_is_named_is_imported():
    root = pathlib.Path(__file__).parents[3]
    finished = subprocess.run(
        [sys.executable, "-c", _LOOK], cwd=root, capture_output=True, text=True, timeout=120
    )
    assert finished.returncode == 0, finished.stderr
    seen = json.loads(finished.stdout.splitlines()[-1])
    assert seen == [[], ["units"], ["hopfield", "units"]]
