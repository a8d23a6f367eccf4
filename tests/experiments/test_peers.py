"""The twins in PyTorch compute what our models compute, and learn as they do."""

import dataclasses
import os
import pathlib

import jax
import numpy as np
import pytest

import experiments
from dlcore import weights
from dlcore.errors import UsageError
from dlcore.train import Session
from experiments import benchmark, recipes
from experiments.pytorch import PyTorch, write_batches

pytestmark = pytest.mark.slow

# Our kinds of parameters and PyTorch's: a convolution that is normalized is two layers there.
NORMALIZED = {
    "kernel": "conv/weight",
    "conv_bias": "conv/bias",
    "scale": "norm/weight",
    "bias": "norm/bias",
}
KINDS = {"kernel": "weight", "scale": "weight"}
RECURRENT = {"input_kernel": "weight_ih_l", "recurrent_kernel": "weight_hh_l", "bias": "bias_ih_l"}


def converted(params):
    """Our parameters by PyTorch's names, each with the output's axis first."""
    arrays = {}
    for path, array in params.items():
        layer, _, kind = path.rpartition("/")
        if layer.startswith("lstm/"):
            name = f"lstm/{RECURRENT[kind]}{layer[-1]}"
        elif {f"{layer}/kernel", f"{layer}/scale"} <= params.keys():
            name = f"{layer}/{NORMALIZED[kind]}"
        else:
            name = f"{layer}/{KINDS.get(kind, kind)}"
        moved = np.moveaxis(array, (-1, -2), (0, 1)) if array.ndim > 1 else array
        arrays[name.replace("/", ".")] = moved
    return arrays


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
    return Session(dataclasses.replace(recipes.get(name), batch_size=8, **fields)).prepared


CASES = {
    "mlp": lambda text: prepared("mlp_mnist", data="digits"),
    "lenet": lambda text: prepared("lenet5_digits"),
    "nesterov": lambda text: prepared(
        "lenet5_digits", optimizer="nesterov", learning_rate=0.01, schedule="constant"
    ),
    "warm-up": lambda text: prepared(
        "lenet5_digits", optimizer="momentum", learning_rate=0.03, warmup_steps=2
    ),
    # Not whole, and not at a high rate: rounding errors of PyTorch's gradients would grow too much.
    "resnet20": lambda text: prepared("resnet20_digits", learning_rate=0.01),
    "resnet50": lambda text: prepared(
        "resnet20_digits",
        model="resnet50",
        model_options={"blocks": (1, 2)},
        data_options={"resize": 33},
        learning_rate=0.001,
    ),
    # The rest without dropout, which is random on both sides.
    "vgg": lambda text: prepared(
        "vgg_digits", model_options={"dropout_rate": 0.0}, optimizer="momentum", learning_rate=0.01
    ),
    "densenet": lambda text: prepared(
        "densenet_bc100_12_digits", model_options={"blocks": (2, 2)}, learning_rate=0.01
    ),
    "uva_densenet": lambda text: prepared(
        "uva_densenet_digits", model_options={"blocks": (2, 2)}, learning_rate=0.01
    ),
    "char_lstm": lambda text: prepared(
        "char_lstm_shakespeare",
        data=text,
        data_options={"sequence_length": 5},
        model_options={"hidden": 16},
    ),
}


def prepared_batches(training, directory):
    stream = training.dataset.train_batches(8, seed=0).start(0)
    batches = benchmark.prepare_batches(training.program, [next(stream) for _ in range(3)])
    write_batches(directory / "batches.npz", batches)
    return batches, directory / "batches.npz"


@pytest.mark.parametrize("name", CASES)
def test_from_the_same_weights_both_learn_alike(name, pytorch, text, tmp_path):
    ours = CASES[name](text)
    batches, path = prepared_batches(ours, tmp_path)
    state = ours.program.initialize()
    params = jax.device_get(weights.flatten({"params": state.params}))
    arrays = converted(params)
    np.savez(tmp_path / "weights.npz", **arrays)
    count = pytorch.make(name, ours, path, weights=tmp_path / "weights.npz")
    assert count == sum(array.size for array in arrays.values())
    step = benchmark.without_preparation(ours, batches[0]).step
    for number, batch in enumerate(batches):
        state, report = step(state, batch)
        # From the second on, the losses also tell of the updates before.
        tolerance = 1e-3 if number else 1e-5
        loss = pytorch.run(name, steps=1)["loss"]
        assert loss == pytest.approx(float(report.loss), rel=tolerance), f"batch {number}"


@pytest.mark.parametrize("model", ["resnet50", "resnet20_cifar", "densenet_bc100_12_cifar"])
def test_a_whole_network_has_as_many_parameters(model, pytorch, tmp_path):
    ours = prepared("resnet20_digits", model=model, data_options={"resize": 33})
    params = jax.tree.leaves(ours.program.abstract_state.params)
    count = pytorch.make("whole", ours, prepared_batches(ours, tmp_path)[1])
    assert count == sum(array.size for array in params)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": "lenet5"}, "model=lenet5: PyTorch has char_lstm, densenet_bc100_12_cifar, "),
        ({"model_options": {"normalization": "batch"}}, "model.normalization=batch: PyTorch's "),
        ({"optimizer": "adagrad"}, "optimizer=adagrad: PyTorch's step has sgd, momentum, "),
        ({"schedule": "step", "decay_steps": 9}, "schedule=step: PyTorch's step has constant "),
        ({"accumulate": 2}, "accumulate=2: PyTorch's twin has its default only"),
    ],
)
def test_what_a_twin_does_not_follow_is_refused(fields, message, pytorch, tmp_path):
    padded = {"data_options": {"resize": 32}}
    ours = prepared("lenet5_digits", **padded, **fields)
    with pytest.raises(UsageError, match=message):
        pytorch.make("refused", ours, prepared_batches(ours, tmp_path)[1])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_compiled_step_and_mixed_precision_give_nearly_the_loss(dtype, pytorch, tmp_path):
    options = {"model_options": {"blocks": (1, 1), "dtype": dtype}}
    ours = prepared("resnet20_digits", **options)
    _, path = prepared_batches(ours, tmp_path)
    pytorch.make("compiled", ours, path, compiled=dtype == "float32")
    assert pytorch.run("compiled", steps=2)["loss"] == pytest.approx(np.log(10), rel=0.5)
    assert pytorch.seconds("compiled", steps=1) > 0
