"""What importing the project brings along, seen in a process of its own."""

import json
import pathlib
import subprocess
import sys

# Records every attempt to import a package, whether it is installed or not.
_WATCH = """
import importlib, importlib.abc, json, pkgutil, sys

class Watch(importlib.abc.MetaPathFinder):
    seen = set()

    def find_spec(self, name, path=None, target=None):
        self.seen.add(name.partition(".")[0])

sys.meta_path.insert(0, Watch())
"""
_ALL = """
for package in ("dlcore", "experiments", "kernels"):
    path = importlib.import_module(package).__path__
    for module in pkgutil.walk_packages(path, package + "."):
        # Which are for another Python, one that has PyTorch.
        if not module.name.startswith("experiments.peers."):
            importlib.import_module(module.name)
"""
_REPORT = "\nprint(json.dumps(sorted(Watch.seen)))"


def imported_by(code: str) -> set[str]:
    """The packages that a fresh interpreter imports, or tries to, while it runs some code."""
    command = [sys.executable, "-c", _WATCH + code + _REPORT]
    root = pathlib.Path(__file__).parents[1]
    finished = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 0, finished.stderr
    return set(json.loads(finished.stdout.splitlines()[-1]))


def test_nothing_of_ours_but_the_peers_imports_tensorflow_or_pytorch():
    packages = imported_by(_ALL)
    assert {"dlcore", "experiments", "kernels", "jax"} <= packages
    assert not packages & {"clu", "tensorflow", "torch"}


def test_the_launcher_starts_without_what_only_some_runs_need():
    packages = imported_by("import experiments.train")
    assert "jax" in packages
    late = {"PIL", "grain", "matplotlib", "sklearn", "tensorboardX", "tensorflow_datasets"}
    assert not packages & late
