"""A trained model, exported, gives the same answers in a process that has no dlcore."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy

from dlcore import torchvision, weights
from dlcore.train import Run
from experiments import export
from tests.experiments.conftest import launch
from tests.limits import limited_file_size

ELSEWHERE = """
import pathlib, sys
import jax.export, numpy as np
program, images, answers = map(pathlib.Path, sys.argv[1:])
exported = jax.export.deserialize(bytearray(program.read_bytes()))
print(*exported.platforms)
with np.load(images) as stored:
    np.savez(answers, **{name: exported.call(stored[name]) for name in stored})
assert not {"dlcore", "kernels", "flax"} & set(sys.modules)
"""


@pytest.fixture
def run(digits_run):
    return Run(digits_run)


@pytest.mark.parametrize("kind", ["stablehlo", "safetensors"])
def test_a_full_disk_is_one_line_that_names_the_file(call, digits_run, tmp_path, kind):
    words = (f"--workdir={digits_run}", f"--output={tmp_path / 'out'}", f"--format={kind}")
    with limited_file_size(2**13):
        code, _, errors = call(export, *words)
    assert code == 1
    file = tmp_path / "out" / export.FORMATS[kind]
    assert errors.splitlines()[-1] == f"error: {file}: File too large"
    assert not list((tmp_path / "out").iterdir())


def test_the_program_gives_the_same_answers_to_raw_images_without_dlcore(
    call, digits_run, run, tmp_path
):
    folder = tmp_path / "out"
    code, output, errors = call(export, f"--workdir={digits_run}", f"--output={folder}")
    assert code == 0, errors
    assert output.startswith(f"{folder / 'model.stablehlo'}: ")
    stored = run.dataset.splits["test"].fetch(np.arange(9))["image"]
    # A batch of another size, and the darkest and the lightest image.
    np.savez(
        tmp_path / "images.npz", nine=stored, ends=np.stack([stored[0] * 0, stored[0] * 0 + 1])
    )
    words = [folder / "model.stablehlo", tmp_path / "images.npz", tmp_path / "answers.npz"]
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *map(str, words)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["cpu", "cuda", "tpu"]
    probability = run.arrays("test_outputs")["probability"][:9]
    with np.load(tmp_path / "answers.npz") as answers:
        np.testing.assert_allclose(answers["nine"], probability, rtol=1e-4, atol=1e-6)
        assert answers["ends"].shape == (2, 10)


def test_the_weights_are_those_of_the_best_checkpoint_and_a_model_starts_from_them(
    call, digits_run, run, tmp_path
):
    words = (f"--workdir={digits_run}", f"--output={tmp_path}", "--format=safetensors")
    code, _, errors = call(export, *words)
    assert code == 0, errors
    file = tmp_path / "model.safetensors"
    found, expected = weights.read(file), weights.flatten(run.trained().variables)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)
    with safetensors.safe_open(file, "numpy") as opened:
        assert opened.metadata() == {"recipe": "lenet5_digits"}


@pytest.mark.slow
def test_weights_with_torchvisions_names_come_back_as_they_were(call, tmp_path):
    options = {"convolutions": "1,1", "features": "4,6", "grid": "2", "hidden": "5"}
    words = ["--recipe=lenet5_digits", "--model=vgg11_bn", "--num_epochs=1", "--data.augment="]
    words += ["--evaluators=-learning_curves -filters -predictions"]
    words += [f"--model.{name}={value}" for name, value in options.items()]
    directory = launch(tmp_path / "run", *words)
    code, output, errors = call(export, f"--workdir={directory}", "--format=torchvision")
    assert code == 0, errors
    path = directory / "export" / "torchvision.safetensors"
    assert output.startswith(f"{path}: ")
    found, expected = weights.read(path), weights.flatten(Run(directory).trained().variables)
    assert found["features.4.weight"].shape == (6, 4, 3, 3)
    assert found["classifier.3.weight"].shape == (10, 5)
    back = torchvision.from_torchvision("vgg11_bn", found, expected)
    assert back.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(back[name], array)


def test_the_card_says_what_the_model_is_takes_gives_and_reached(call, digits_run, run, tmp_path):
    call(export, f"--workdir={digits_run}", f"--output={tmp_path}", "--format=safetensors")
    card = (tmp_path / "README.md").read_text()
    summary = json.loads((digits_run / "summary.json").read_text())
    stored = run.dataset.example_batch(1)["image"]
    shape = "x".join(map(str, stored.shape[1:]))
    for line in (
        "# lenet5_digits",
        f"- model: `lenet5_modern`, {summary['parameters']:,} parameters",
        "- data: `digits`; scores are of its test split",
        f"- input: a batch of {shape}, {stored.dtype}",
        "- output: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9",
        f"- accuracy: {summary['test']['accuracy']:.4f}",
        "- expected: accuracy >= 0.97",
    ):
        assert line in card.splitlines()
    assert f"jax {jax.__version__}" in card
    assert summary["commit"] in card


def test_it_goes_beside_the_run_where_no_folder_is_named(call, tmp_path):
    words = ("--recipe=softmax_regression_iris", "--num_epochs=1")
    directory = launch(tmp_path / "run", *words)
    code, _, errors = call(export, f"--workdir={directory}")
    assert code == 0, errors
    assert {path.name for path in (directory / "export").iterdir()} == {
        "README.md",
        "model.stablehlo",
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--format=onnx",), "--format=onnx: it is one of stablehlo, safetensors, torchvision"),
        (("--format=torchvision",), "torchvision has no network with the layers of lenet5_modern"),
        (("--output=/dev/null/there",), "--output=/dev/null/there: a part of it is a file"),
    ],
)
def test_a_bad_command_is_refused_in_one_line(call, digits_run, words, message):
    code, _, errors = call(export, f"--workdir={digits_run}", *words)
    assert code == 2
    assert errors.startswith(f"error: {message}")
    assert errors.count("\n") == 1


@pytest.mark.slow
def test_a_model_without_answers_to_one_input_has_no_program_but_weights(call, tmp_path):
    words = ("--recipe=gan_digits", "--num_epochs=1", "--evaluators=", "--needs.judge=")
    directory = launch(tmp_path / "run", *words, "--model.generator_hidden=8")
    code, _, errors = call(export, f"--workdir={directory}")
    assert code == 2
    assert errors.startswith("error: --format=stablehlo: ")
    assert not (directory / "export").exists()
    code, _, errors = call(export, f"--workdir={directory}", "--format=safetensors")
    assert code == 0, errors
