"""One short training that many tests look at, and the programs called as a shell would."""

import pathlib
import sys
from collections.abc import Callable
from types import ModuleType

import numpy as np
import PIL.Image
import pytest

from experiments import flags, train

# A command's exit code, standard output and standard error.
Result = tuple[int, str, str]
Call = Callable[..., Result]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Call:
    """Calls a program in this process: `call(train, "--list")` gives code, output, errors."""

    def run(program: ModuleType, *words: str | pathlib.Path) -> Result:
        monkeypatch.setattr(sys, "argv", [program.__name__, *map(str, words)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            flags.run(program.main, program.define)
        output, errors = capfd.readouterr()
        return end.value.code or 0, output, errors

    return run


def launch(directory: pathlib.Path, *words: str) -> pathlib.Path:
    """The directory of a training by the launcher in this process; for what is made only once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["train", *words, f"--workdir={directory}"])
        with pytest.raises(SystemExit) as end:
            flags.run(train.main, train.define)
    assert not end.value.code
    return directory


# The training that `digits_run` is: small, without what takes long to compile.
DIGITS_RUN = ("--recipe=lenet5_digits", "--num_epochs=2", "--data.resize=12", "--data.augment=")


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The directory of a complete, short training of LeNet-5 on the digits: look, do not touch."""
    return launch(tmp_path_factory.mktemp("digits") / "run", *DIGITS_RUN)


@pytest.fixture
def pictures(tmp_path) -> pathlib.Path:
    """A folder of one's own: 30 gray images of two classes."""
    rng = np.random.default_rng(0)
    for number in range(30):
        folder = tmp_path / "pictures" / ("cat", "dog")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(256, size=(28, 28), dtype=np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "pictures"
