"""The twins in PyTorch compute what our models compute, and learn as they do."""

import dataclasses
import os
import pathlib
import re

import jax
import numpy as np
import pytest

import experiments
from dlcore import weights
from dlcore.train import Session
from experiments import benchmark, recipes
from experiments.pytorch import PyTorch, write_batches

pytestmark = pytest.mark.slow

# Our names and PyTorch's: a layer with batch normalization is two there.
NAMES = (
    (r"(.*conv\d|.*shortcut)/kernel", r"\1/conv/weight"),
    (r"(.*conv\d|.*shortcut)/scale", r"\1/norm/weight"),
    (r"(.*conv\d|.*shortcut)/bias", r"\1/norm/bias"),
    (r"lstm/layer_(\d)/input_kernel", r"lstm/weight_ih_l\1"),
    (r"lstm/layer_(\d)/recurrent_kernel", r"lstm/weight_hh_l\1"),
    (r"lstm/layer_(\d)/bias", r"lstm/bias_ih_l\1"),
    (r"(.*)/kernel", r"\1/weight"),
)


def converted(name, array):
    """A parameter of ours by PyTorch's name, with the output's axis first."""
    for ours, theirs in NAMES:
        if re.fullmatch(ours, name):
            name = re.sub(ours, theirs, name)
            break
    return name.replace("/", "."), np.moveaxis(array, (-1, -2), (0, 1)) if array.ndim > 1 else array


@pytest.fixture(scope="module")
def pytorch():
    root = pathlib.Path(experiments.__file__).parents[1]
    python = os.environ.get("DLCORE_PEERS_PYTHON", root / ".peers" / "bin" / "python")
    if not pathlib.Path(python).exists():
        pytest.skip(f"PyTorch's environment is not there: `make peers` makes {python}")
    with PyTorch(str(python), threads=2) as started:
        yield started


@pytest.fixture
def text(tmp_path):
    (tmp_path / "fox.txt").write_text("the quick brown fox jumps over the lazy dog.\n" * 20)
    return str(tmp_path)


def prepared(name, **fields):
    return Session(dataclasses.replace(recipes.get(name), **fields)).prepared


CASES = {
    "mlp": lambda text: prepared("mlp_mnist", data="digits", batch_size=16),
    "lenet": lambda text: prepared("lenet5_digits", batch_size=16),
    "resnet20": lambda text: prepared("resnet20_digits", batch_size=16),
    "resnet50": lambda text: prepared(
        "resnet20_digits", model="resnet50", data_options={"resize": 33}, batch_size=4
    ),
    "nesterov": lambda text: prepared(
        "mlp_mnist", data="digits", batch_size=16, optimizer="nesterov", schedule="constant"
    ),
    # Dropout is random on both sides.
    "char_lstm": lambda text: prepared(
        "char_lstm_shakespeare",
        data=text,
        data_options={"sequence_length": 5},
        model_options={"hidden": 16},
        batch_size=8,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_on_the_same_weights_and_batches_the_losses_are_equal(name, pytorch, text, tmp_path):
    ours = CASES[name](text)
    program = ours.program
    stream = ours.dataset.train_batches(ours.recipe.batch_size, 0).start(0)
    batches = benchmark.prepare_batches(program, [next(stream) for _ in range(3)])
    write_batches(tmp_path / "batches.npz", batches)
    state = program.initialize()
    flat = jax.device_get(weights.flatten({"params": state.params}))
    arrays = dict(converted(path, array) for path, array in flat.items())
    np.savez(tmp_path / "weights.npz", **arrays)
    count = pytorch.make(name, ours, tmp_path / "batches.npz", weights=tmp_path / "weights.npz")
    assert count == sum(array.size for array in arrays.values())
    step = benchmark.without_preparation(ours, batches[0]).step
    for number, batch in enumerate(batches):
        state, report = step(state, batch)
        theirs = pytorch.run(name, steps=1)["loss"]
        # Then also the updates agree; they and their rounding are larger than a loss is.
        print(name, number, theirs, float(report.loss))
        tolerance = 1e-3 if number else 1e-5
        assert theirs == pytest.approx(float(report.loss), rel=tolerance), number
