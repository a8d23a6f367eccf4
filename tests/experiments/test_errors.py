"""Bad input: one clear line that names it and says what would be right, exit code 2, nothing lost.

A row is a command line and what its message has to say. The program is called in this process; a
few rows are also given to a shell.
"""

import ast
import contextlib
import fcntl
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
from typing import Any

import numpy as np
import PIL.Image
import pytest

import dlcore
from dlcore import data, models
from dlcore.data import registration
from dlcore.data.features import ClassLabel, Image
from experiments import evaluate, export, find_rate, predict, prepare, reproduce, study, train
from experiments import models as table_of_models
from tests.experiments.conftest import DIGITS_RUN

ROOT = pathlib.Path(__file__).parents[2]
# Small, so that a row that is no error after all ends soon.
DIGITS = ("--recipe=lenet5_digits", "--num_epochs=1", "--batch_size=64")
SOFTMAX = (*DIGITS, "--model=softmax_regression")
MLP = (*DIGITS, "--model=mlp")
PLATEAU = (*DIGITS, "--schedule=plateau", "--plateau_patience=2")
PRUNED = (*DIGITS, "--prune_fraction=0.5")


def files(directory: pathlib.Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def assert_refused(result: tuple[int, str, str], *fragments: str) -> None:
    code, _, errors = result
    assert code == 2, errors
    assert "Traceback" not in errors
    [line] = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert errors.splitlines()[-1] == line
    for fragment in fragments:
        assert fragment in line


COMMANDS = [
    # What is to be done.
    ((), "--recipe is missing", "--list"),
    (("--recipe",), "--recipe", "Missing value"),
    (("--recipe=lenet_digits",), "unknown recipe 'lenet_digits'", "did you mean lenet5_digits"),
    (("--recipe=no-such-thing",), "unknown recipe 'no-such-thing'", "lenet5_digits", "gan_digits"),
    (("lenet5_digits",), "'lenet5_digits' is no flag", "--name=value"),
    (("--learning_rate=0.1",), "'learning_rate'", "need --recipe=NAME"),
    # Flags that are not there, or take something else.
    ((*DIGITS, "--learning_rat=1"), "'learning_rat'", "Did you mean: learning_rate"),
    ((*MLP, "--model.width=3"), "'model.width'", "Did you mean: model.hidden"),
    ((*DIGITS, "--model.hidden=3"), "'model.hidden'"),
    ((*DIGITS, "--num_epochs=three"), "--num_epochs=three: it takes an integer"),
    ((*DIGITS, "--num_epochs=1.5"), "--num_epochs=1.5: it takes an integer"),
    ((*DIGITS, "--learning_rate=fast"), "--learning_rate=fast: it takes a number"),
    ((*DIGITS, "--profile=3"), "--profile=3: it takes true or false"),
    ((*DIGITS, "--data.resize=big"), "--data.resize=big: it takes an integer"),
    ((*MLP, "--model.dropout_rate=half"), "--model.dropout_rate=half: it takes a number"),
    ((*MLP, "--model.hidden=a,b"), "--model.hidden=a,b: it takes integers with commas"),
    ((*MLP, "--model.hidden=1.5"), "--model.hidden=1.5: it takes integers with commas"),
    ((*MLP, "--model.hidden="), "--model.hidden=: it takes integers with commas"),
    ((*DIGITS, "--seeds=a"), "--seeds=a: it takes integers with commas"),
    ((*DIGITS, "--seeds=0,1,0"), "--seeds=0,1,0: each may be named once"),
    ((*DIGITS, "--seeds=0,,1"), "--seeds=0,,1: it takes integers with commas"),
    # Names.
    ((*DIGITS, "--model=lenet6"), "unknown model 'lenet6'", "did you mean lenet5"),
    ((*DIGITS, "--task=clasification"), "unknown task 'clasification'", "classification"),
    ((*DIGITS, "--optimizer=adm"), "--optimizer=adm:", "adam"),
    ((*DIGITS, "--schedule=cosin"), "--schedule=cosin:", "cosine"),
    ((*DIGITS, "--parallelism=ddp"), "--parallelism=ddp", "jit, pmap, data, fsdp"),
    ((*DIGITS, "--kernels=fast"), "--kernels=fast: it is auto, xla, mosaic_gpu or mosaic_tpu"),
    ((*DIGITS, "--kernels=xla"), "--kernels=xla: --model=lenet5_modern calls no kernel: use auto"),
    (
        ("--recipe=char_lstm_shakespeare", "--kernels=mosaic_tpu", "--parallelism=fsdp"),
        "--kernels=mosaic_tpu: under --parallelism=fsdp",
        "it cannot split a Pallas kernel: use xla, or --parallelism=data",
    ),
    (("--recipe=char_lstm_shakespeare", "--model.kernels=xla"), "'model.kernels'"),
    (
        ("--recipe=perceptron_digits", "--parallelism=pmap"),
        "--parallelism=pmap cannot train this task: use jit",
    ),
    ((*DIGITS, "--on_nonfinite=ignore"), "--on_nonfinite=ignore: it is stop or skip"),
    ((*DIGITS, "--data.normalize=no"), "unknown normalize 'no'", "mean_std"),
    ((*DIGITS, "--data.augment=spin"), "unknown augmentation 'spin'", "flip, crop"),
    ((*DIGITS, "--data.augment=flip:2"), "augmentation 'flip:2'", "at most 1"),
    ((*DIGITS, "--data.crop_size=99"), "--data.crop_size is 99", "have 28 x 28 pixels"),
    ((*DIGITS, "--data.test_crops=10"), "--data.test_crops is 10: it needs a --data.crop_size"),
    ((*MLP, "--model.activation=relus"), "unknown activation 'relus'", "relu"),
    ((*MLP, "--model.activation=elu:-1"), "activation 'elu:-1'", "a number above 0"),
    ((*DIGITS, "--model.normalization=bath"), "unknown normalization 'bath'", "none, batch"),
    ((*DIGITS, "--model.normalize=at"), "normalize is before or after", "'at'"),
    ((*DIGITS, "--model.dropout_rate=1"), "a dropout rate is at least 0 and below 1, not 1.0"),
    ((*DIGITS, "--model.input_noise=-1"), "standard deviation is a number from 0 on, not -1.0"),
    ((*MLP, "--model.window=40,2"), "--model.window=40,2 does not fit inputs of 28x28x1"),
    ((*MLP, "--initializer=xaver"), "unknown initializer 'xaver'", "xavier, glorot"),
    ((*MLP, "--initializer=kumar:relu"), "kumar needs an activation with a derivative at 0"),
    ((*MLP, "--initializer=lsuv:row"), "initializer 'lsuv:row'", "layer or unit"),
    # Numbers that are out of range.
    ((*DIGITS, "--learning_rate=0"), "--learning_rate=0", "above 0"),
    ((*DIGITS, "--learning_rate=-0.1"), "--learning_rate=-0.1", "above 0"),
    ((*DIGITS, "--learning_rate=nan"), "--learning_rate=nan", "above 0"),
    ((*DIGITS, "--momentum=1"), "--momentum=1.0", "below 1"),
    ((*DIGITS, "--weight_decay=-1"), "--weight_decay=-1.0", "at least 0"),
    ((*DIGITS, "--beta1=1"), "--beta1=1.0", "below 1"),
    ((*DIGITS, "--epsilon=0"), "--epsilon=0.0", "above 0"),
    ((*DIGITS, "--l1=-1"), "--l1=-1.0", "at least 0"),
    ((*DIGITS, "--clip_norm=-1"), "--clip_norm=-1.0", "at least 0"),
    (
        (*DIGITS, "--clip_norm=1", "--clip_average_factor=2"),
        "--clip_norm=1.0",
        "--clip_average_factor=2.0",
    ),
    ((*DIGITS, "--gradient_noise=inf"), "--gradient_noise=inf", "at least 0"),
    (
        (*DIGITS, "--optimizer=heavy_ball", "--decoupled_weight_decay"),
        "--decoupled_weight_decay=true would become a part of the velocity of heavy_ball",
    ),
    ((*DIGITS, "--warmup_steps=1000"), "--warmup_steps=1000", "less than the 20 steps"),
    ((*DIGITS, "--schedule=step"), "--decay_steps=0", "--schedule=step needs at least 1"),
    ((*DIGITS, "--schedule=time"), "--decay_steps=0", "--schedule=time needs at least 1"),
    ((*DIGITS, "--decay_factor=2"), "--decay_factor=2.0", "at most 1"),
    ((*DIGITS, "--num_epochs=0"), "--num_epochs=0", "at least 1"),
    ((*DIGITS, "--evaluate_every=0"), "--evaluate_every=0", "at least 1"),
    ((*DIGITS, "--ema_decay=1"), "--ema_decay=1.0", "[0, 1)"),
    ((*DIGITS, "--keep=0"), "--keep=0", "at least one checkpoint"),
    ((*DIGITS, "--checkpoint_every=-1"), "--checkpoint_every=-1", "not be negative"),
    ((*DIGITS, "--step_timeout=-1"), "--step_timeout=-1", "not be negative"),
    ((*DIGITS, "--data.validation_fraction=1.5"), "--data.validation_fraction is 1.5", "[0, 1)"),
    (
        (*DIGITS, "--data.test_fraction=0.9999"),
        "no examples for the train split",
        "--data.test_fraction",
    ),
    ((*DIGITS, "--data.split_seed=-1"), "--data.split_seed is -1", "not be negative"),
    ((*DIGITS, "--task.criterion=mse"), "unknown criterion 'mse'", "cross_entropy, hinge"),
    (
        ("--recipe=multitask_digits", "--task.tag_weight=-1"),
        "--task.tag_weight is -1.0",
        "from 0 on",
    ),
    (
        (*DIGITS, "--task.label_smoothing=2"),
        "--task.label_smoothing is at least 0 and below 1, not 2.0",
    ),
    ((*DIGITS, "--overfit=5000"), "--overfit=5000", "from 1 to 1294"),
    ((*DIGITS, "--overfit=-1"), "--overfit=-1", "from 1 to 1294"),
    (
        ("--recipe=perceptron_digits", "--overfit=20"),
        "--overfit=20",
        "--task=perceptron has a rule of its own",
    ),
    ((*DIGITS, "--model.num_classes=3"), "--model.num_classes=3 does not fit: digits has 10"),
    ((*DIGITS, "--patience=-1"), "--patience=-1", "not be negative"),
    ((*DIGITS, "--plateau_patience=-1"), "--plateau_patience=-1", "not be negative"),
    ((*DIGITS, "--decay_steps=-1"), "--decay_steps=-1", "not be negative"),
    ((*DIGITS, "--seed=2147483648"), "--seed=2147483648", "at most 2147483647"),
    ((*DIGITS, "--seeds=0,-1"), "--seed=-1", "not be negative"),
    ((*DIGITS, "--task.rubbish_penalty=nan"), "--task.rubbish_penalty is nan", "a finite number"),
    ((*MLP, "--model.input_noise=inf"), "--model.input_noise is inf", "a finite number"),
    ((*DIGITS, "--log_every=-1"), "--log_every=-1", "not be negative"),
    ((*DIGITS, "--batch_size=-1"), "--batch_size=-1", "not be negative"),
    ((*DIGITS, "--schedule=plateau"), "--plateau_patience=0", "needs at least 1"),
    ((*PLATEAU, "--patience=2"), "--patience=2", "more than --plateau_patience=2"),
    ((*PLATEAU, "--decay_factor=1"), "--decay_factor=1.0", "--schedule=plateau needs less"),
    ((*PLATEAU, "--data.validation_fraction=0"), "--schedule=plateau", "validation split"),
    ((*DIGITS, "--restart_from_best"), "--restart_from_best", "--schedule=cosine does not react"),
    ((*DIGITS, "--prune_fraction=1"), "--prune_fraction=1.0", "above 0 and below 1"),
    ((*PRUNED, "--prune_epoch=1"), "--prune_epoch=1", "less than --num_epochs=1"),
    ((*PRUNED, "--prune_epoch=-1"), "--prune_epoch=-1", "not be negative"),
    ((*PRUNED, "--ema_decay=0.9"), "--ema_decay=0.9", "--prune_fraction=0.5", "--ema_decay=0"),
    ((*MLP, "--recompute_statistics"), "--recompute_statistics", "MLP has no batch normalization"),
    ((*DIGITS, "--seed=-1"), "--seed=-1", "not be negative"),
    ((*DIGITS, "--patience=3", "--data.validation_fraction=0"), "--patience=3", "validation split"),
    ((*MLP, "--model.hidden=0"), "--model.hidden=(0,)", "at least 1"),
    ((*DIGITS, "--model.num_classes=12"), "--model.num_classes=12 does not fit: digits has 10"),
    # Parts that do not fit each other.
    (
        (*DIGITS, "--batch_size=0", "--parallelism=data"),
        "--batch_size=0 makes the batch 1294, which does not divide over the 8 device(s)",
        "--parallelism=jit",
    ),
    (
        (*DIGITS, "--overfit=20", "--parallelism=data"),
        "--overfit=20 makes the batch 20, which does not divide over the 8 device(s)",
    ),
    (
        ("--recipe=perceptron_digits", "--prune_fraction=0.5", "--prune_epoch=1"),
        "--task=perceptron",
        "--prune_fraction=0",
    ),
    (("--recipe=gan_digits", "--schedule=plateau", "--plateau_patience=1"), "no such metric"),
    (("--recipe=perceptron_digits", "--schedule=cosine"), "--task=perceptron", "constant"),
    (("--recipe=gan_digits", "--task.discriminator_steps=2", "--warmup_steps=9"), "--task=gan"),
    ((*DIGITS, "--model=char_lstm"), "--model=char_lstm does not fit --task=classification"),
    ((*DIGITS, "--model=gan"), "--model=gan does not fit --task=classification"),
    ((*DIGITS, "--model=multitask_mlp"), "does not fit", "more than one input or output"),
    (("--recipe=multitask_digits", "--model=mlp"), "does not fit", "it has no num_tags"),
    (("--recipe=multitask_digits", "--data=iris"), "10 digits and 7 segments, not (3, 7)"),
    (
        ("--recipe=softmax_regression_iris", "--data=diabetes"),
        "the task needs 'label'",
        "'diabetes' has",
    ),
    (("--recipe=ridge_diabetes", "--data=digits"), "the task needs 'numbers'", "besides 'image'"),
    (("--recipe=segments_digits", "--data=digits"), "the task needs 'tags'", "besides 'image'"),
    ((*DIGITS, "--task=gan"), "--model=lenet5_modern does not fit --task=gan", "generate"),
    ((*DIGITS, "--task=language_model"), "the task needs 'tokens'", "dataset 'digits' has 'image'"),
    (
        ("--recipe=segments_digits", "--evaluators=predictions"),
        "evaluator 'predictions' needs 'label' (a class) besides 'image', 'tags': dataset 'digits_",
    ),
    ((*DIGITS, "--data.features=image:photo"), "--data.features has 'photo': dataset 'digits' has"),
    ((*DIGITS, "--data.splits=train:small"), "--data.splits has 'small': dataset 'digits' has"),
    (
        (*DIGITS, "--data=/no/such/folder"),
        "--data=/no/such/folder: there is no such file or folder",
    ),
    ((*DIGITS, "--num_processes=2"), "--num_processes", "need --distributed"),
    # What a recipe needs first.
    ((*DIGITS, "--needs.judge=lenet5_digits"), "'needs.judge'"),
    (("--recipe=gan_digits", "--needs.judge=xyz"), "unknown recipe 'xyz'"),
    (
        ("--recipe=gan_digits", "--needs.judge="),
        "--evaluators=judged_samples: 'judged_samples' needs a trained judge",
        "(--needs.judge), or drop it by -judged_samples",
    ),
    *(
        (("--recipe=gan_digits", f"--needs.judge={name}"), "--needs.judge: a judge classifies imag")
        for name in ("perceptron_digits", "multitask_digits")
    ),
    (
        ("--recipe=gan_digits", "--needs.judge=lenet5_mnist"),
        "--needs.judge: lenet5 takes images of 32x32x1, not 12x12x1",
    ),
    # A recipe of one's own.
    (("--recipe=no.such:recipe",), "--recipe=no.such:recipe: No module named 'no'"),
    (("--recipe=dlcore:recipe",), "--recipe=dlcore:recipe: module 'dlcore' has no attribute"),
    (("--recipe=dlcore.train:Session",), "--recipe=dlcore.train:Session is no dlcore.train.Recipe"),
    # Groups of parameters.
    ((*DIGITS, "--groups=head/.*:frozen"), "--groups=head/.*: it matches no parameter", "C1/bias"),
    ((*DIGITS, "--groups=(:frozen"), "--groups=(", "it is not a regular expression"),
    ((*DIGITS, "--groups=C1/.*:frozen,rate=2"), "nothing changes a frozen group"),
    ((*DIGITS, "--groups=C1/.*:rate=0"), "--groups=C1/.*:rate=0", "a number above 0"),
    ((*DIGITS, "--groups=C1/.*:weight_decay=-1"), "--groups=C1/.*:weight_decay=-1", "at least 0"),
    ((*DIGITS, "--groups=C1/.*:speed=2"), "C1/.*:speed=2: a group has no such setting"),
    ((*DIGITS, "--groups=C1/.*:optimizer=adm"), "C1/.*:optimizer=adm: it is one of sgd"),
    ((*DIGITS, "--groups=C1/.*:clip_norm=2"), "C1/.*:clip_norm=2: all groups are clipped together"),
    ((*DIGITS, "--groups=.*:frozen"), "--groups=.*:frozen: every parameter is frozen"),
    # Evaluators.
    ((*DIGITS, "--evaluators=prediction"), "unknown evaluator 'prediction'", "predictions"),
    ((*DIGITS, "--evaluators=predictions:x=1"), "evaluator 'predictions' has no option 'x'"),
    (
        (*DIGITS, "--evaluators=filters:every=-1"),
        "evaluator 'filters': every=-1",
        "not be negative",
    ),
    ((*DIGITS, "--evaluators=filters:every=two"), "'filters': every=two: it takes an integer"),
    (
        (*DIGITS, "--evaluators=filters:"),
        "--evaluators=filters:: '' in 'filters:' is not a setting",
    ),
    ((*DIGITS, "--evaluators=-samples"), "--evaluators=-samples: '-samples' drops what is not"),
    (
        (*DIGITS, "--evaluators=samples"),
        "--evaluators=samples: 'samples' is for a task that samples",
        "--task=classification does not",
    ),
    (("--recipe=gan_digits", "--evaluators=samples:count=0"), "evaluator 'samples': count=0"),
    # Weights to start from.
    (
        (*DIGITS, "--start_mapping=C1/.*<-"),
        "--start_mapping=C1/.*<- needs weights: set --start_from",
    ),
    (
        (*DIGITS, "--start_from=no/such/run"),
        "--start_from=no/such/run: there is no such directory",
    ),
    ((*DIGITS, "--start_from=w.safetensors"), "w.safetensors does not exist"),
    ((*DIGITS, "--start_from=dlcore"), "dlcore is no run directory: recipe.json is missing"),
    # Batches that do not divide.
    ((*DIGITS, "--batch_size=5000"), "--batch_size 5000", "1294 training examples"),
    (
        (*DIGITS, "--batch_size=65", "--parallelism=pmap"),
        "--batch_size=65 does not divide over 8 devices",
        "64 or 72",
    ),
    (
        (*DIGITS, "--batch_size=65", "--parallelism=fsdp"),
        "--batch_size=65 does not divide over 8 devices",
    ),
    ((*DIGITS, "--accumulate=3"), "--batch_size=64", "3 accumulated batches", "63 or 66"),
    (
        ("--recipe=perceptron_digits", "--accumulate=2"),
        "--accumulate=2",
        "an update rule of its own",
    ),
    # Models that do not fit the data.
    ((*DIGITS, "--data.resize=0"), "lenet5_modern takes images of 12x12 or more, not 8x8"),
    ((*DIGITS, "--model=lenet5"), "lenet5 takes images of 32x32x1, not 28x28x1"),
    # Paths that are not on this machine, or cannot be read back.
    ((*DIGITS, "--workdir=gs://b/x"), "--workdir=gs://b/x: gs:// is not supported: name a path"),
    ((*DIGITS, "--workdir=runs/[x]"), "--workdir=runs/[x]: checkpoints below [x] could not be"),
    ((*DIGITS, "--data=s3://b/x"), "--data=s3://b/x: s3:// is not supported"),
    ((*DIGITS, "--data=mnist", "--data_dir=hdfs://b/x"), "--data_dir=hdfs://b/x: hdfs:// is not"),
    ((*DIGITS, "--data_dir=hdfs://b/x"), "--data_dir=hdfs://b/x: hdfs:// is not supported"),
    ((*DIGITS, "--start_from=gs://b/x"), "--start_from=gs://b/x: gs:// is not supported"),
    ((*DIGITS, "--start_from=~no-such-user/x"), "~no-such-user has no home directory here"),
    # Data that is not there.
    ((*DIGITS, "--data=mnist"), "dataset 'mnist' needs --data_dir"),
    (
        (*DIGITS, "--data=mnist", "--data_dir=/no/such/directory"),
        "data directory /no/such/directory does not exist",
        "experiments.prepare --dataset=mnist",
    ),
]


@pytest.mark.parametrize(
    ("words", "fragments"),
    [(words, fragments) for words, *fragments in COMMANDS],
    ids=[" ".join(words) for words, *_ in COMMANDS],
)
def test_a_bad_command_line_is_refused_before_anything_is_written(
    call, tmp_path, monkeypatch, words, fragments
):
    monkeypatch.delenv("DLCORE_DATA_DIR", raising=False)
    assert_refused(call(train, f"--workdir={tmp_path / 'new'}", *words), *fragments)
    assert not (tmp_path / "new").exists()


def test_a_run_directory_has_to_be_named(call):
    assert_refused(call(train, *SOFTMAX), "--workdir is missing")


def test_a_shell_sees_the_same():
    # It is refused behind all preparation, of which nothing is to be seen.
    command = [sys.executable, "-m", "experiments.train", *SOFTMAX, "--workdir=/dev/null/run"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert_refused(
        (done.returncode, done.stdout, done.stderr),
        "--workdir=/dev/null/run cannot be written: Not a directory",
    )
    assert len(done.stderr.splitlines()) == 1


# The run directory.


@pytest.fixture
def copy(digits_run, tmp_path) -> pathlib.Path:
    """A complete run of LeNet on the digits, as `DIGITS_RUN` goes on with it."""
    return shutil.copytree(digits_run, tmp_path / "copy")


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (("--recipe=perceptron_digits",), ("--recipe=lenet5_digits", "--recipe=perceptron_digits")),
        ((*DIGITS_RUN, "--num_epochs=3"), ("--num_epochs=2", "--num_epochs=3")),
        ((*DIGITS_RUN, "--learning_rate=0.5"), ("this one has --learning_rate=0.5",)),
        ((*DIGITS_RUN, "--data.pad=2"), ("--data.pad=0", "--data.pad=2")),
        (
            (*DIGITS_RUN, "--model=softmax_regression"),
            ("--model=lenet5_modern", "--model=softmax_regression"),
        ),
    ],
)
def test_a_workdir_of_another_run_is_refused_and_left_alone(call, copy, words, fragments):
    before = files(copy)
    result = call(train, *words, f"--workdir={copy}")
    assert_refused(
        result, f"--workdir={copy} belongs to a run with", "another directory", *fragments
    )
    assert files(copy) == before


def test_a_workdir_that_is_a_file_is_refused_and_left_alone(call, tmp_path):
    (tmp_path / "run").write_text("notes")
    assert_refused(call(train, *SOFTMAX, f"--workdir={tmp_path / 'run'}"), "is a file")
    assert (tmp_path / "run").read_text() == "notes"


def test_a_workdir_with_foreign_files_is_refused_and_left_alone(call, tmp_path):
    (tmp_path / "thesis.tex").write_text("My thesis")
    result = call(train, *SOFTMAX, f"--workdir={tmp_path}")
    assert_refused(result, f"--workdir={tmp_path} holds files but no recipe.json")
    assert files(tmp_path) == {"thesis.tex": b"My thesis"}
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("content", ["", '{"name": "lenet5_di', "null", "[1]"])
def test_a_damaged_recipe_is_refused_and_left_alone(call, copy, content):
    (copy / "recipe.json").write_text(content)
    before = files(copy)
    for result in (
        call(train, *DIGITS_RUN, f"--workdir={copy}"),
        call(evaluate, f"--workdir={copy}"),
    ):
        assert_refused(result, f"{copy / 'recipe.json'} is damaged: it holds no JSON object")
    assert files(copy) == before


def of_old(recipe: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """As the first version wrote it, which had no version and a field that is gone."""
    del recipe["version"], recipe["needs"]
    told = f"of dlcore before 0.2 cannot be read by {dlcore.__version__}: use dlcore 0.1"
    return {**recipe, "judge": ""}, told


def of_a_later_version(recipe: dict[str, Any]) -> tuple[dict[str, Any], str]:
    told = f"of dlcore 9.1 cannot be read by {dlcore.__version__}, which does not know flux"
    return {**recipe, "version": "9.1", "flux": 3}, told


@pytest.mark.parametrize("change", [of_old, of_a_later_version], ids=lambda change: change.__name__)
def test_a_run_of_another_version_is_refused_by_its_version(call, copy, change):
    recipe, told = change(json.loads((copy / "recipe.json").read_text()))
    (copy / "recipe.json").write_text(json.dumps(recipe))
    (copy / "digit.png").touch()
    before = files(copy)
    for result in (
        call(train, *DIGITS_RUN, f"--workdir={copy}"),
        call(evaluate, f"--workdir={copy}"),
        call(predict, f"--workdir={copy}", copy / "digit.png"),
        call(train, *DIGITS_RUN, f"--start_from={copy}", f"--workdir={copy.parent / 'new'}"),
    ):
        assert_refused(result, f"{copy}: a run {told}")
    assert files(copy) == before
    assert not (copy.parent / "new").exists()


@contextlib.contextmanager
def in_use(directory: pathlib.Path):
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_a_second_training_in_the_same_workdir_is_refused(call, copy):
    before = files(copy)
    with in_use(copy):
        result = call(train, *DIGITS_RUN, f"--workdir={copy}")
    assert_refused(result, f"--workdir={copy} is in use by another training")
    assert files(copy) == before


def test_checkpoints_of_another_model_are_refused_and_left_alone(call, copy):
    # LeNet's checkpoints in the directory of an MLP that is not complete.
    recipe = json.loads((copy / "recipe.json").read_text())
    recipe |= {"model": "mlp", "model_options": models.defaults("mlp")}
    (copy / "recipe.json").write_text(json.dumps(recipe))
    (copy / "summary.json").unlink()
    before = files(copy)
    result = call(train, *DIGITS_RUN, "--model=mlp", f"--workdir={copy}")
    assert_refused(result, f"the checkpoint {copy}/checkpoints/", "of another model: params/C1")
    assert files(copy) == before


# Weights to start from.


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (
            ("--model=mlp",),
            (
                "the weights do not fit the model; words in --start_mapping can mend it",
                "missing in the source",
            ),
        ),
        (
            ("--start_mapping=logits/.*<-",),
            ("2 left over in the source (logits/bias, logits/kernel): leave them out",),
        ),
        (("--start_mapping=C1<-",), ("--start_mapping=C1<-: it matches nothing in the model",)),
        (("--start_mapping=(<-",), ("--start_mapping=(<-: it is not a regular expression",)),
        (("--start_mapping=C1",), ("--start_mapping=C1: write TARGET<-SOURCE",)),
    ],
)
def test_weights_that_do_not_fit_are_refused_before_anything_is_written(
    call, digits_run, tmp_path, words, fragments
):
    words = (*DIGITS_RUN, f"--start_from={digits_run}", *words, f"--workdir={tmp_path / 'new'}")
    assert_refused(call(train, *words), *fragments)
    assert not (tmp_path / "new").exists()


# The data.


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


def cut_an_image_in_half(root):
    path = root / "cat" / "0.png"
    path.write_bytes(path.read_bytes()[:100])
    return "cannot read image", str(path)


def remove_all_images(root):
    shutil.rmtree(root / "cat")
    shutil.rmtree(root / "dog")
    return f"no images in {root}", "CLASS/*"


def name_a_class_that_is_not_trained(root):
    os.renames(root / "cat", root / "train" / "cat")
    os.renames(root / "dog", root / "test" / "dog")
    return f"{root / 'test' / 'dog'} is no class of the training images", "cat"


def enlarge_an_image(root):
    PIL.Image.new("L", (40, 40)).save(root / "dog" / "1.png")
    return "images differ in size", f"{root / 'dog' / '1.png'} has 40 x 40", "set resize"


@pytest.mark.parametrize(
    "harm",
    [cut_an_image_in_half, remove_all_images, name_a_class_that_is_not_trained, enlarge_an_image],
    ids=lambda harm: harm.__name__,
)
def test_images_of_ones_own_that_cannot_be_used_are_named(call, pictures, tmp_path, harm):
    fragments = harm(pictures)
    before = files(pictures)
    words = (*SOFTMAX, "--batch_size=4", "--data.resize=0", f"--data={pictures}")
    assert_refused(call(train, *words, f"--workdir={tmp_path / 'new'}"), *fragments)
    assert files(pictures) == before


def test_a_damaged_prepared_dataset_is_named(call, tmp_path):
    version = tmp_path / "tfds" / "mnist" / "3.0.1"
    version.mkdir(parents=True)
    (version / "dataset_info.json").write_text('{"name": "mni')
    words = (*SOFTMAX, "--data=mnist", f"--data_dir={tmp_path / 'tfds'}")
    result = call(train, *words, f"--workdir={tmp_path / 'new'}")
    assert_refused(result, f"dataset 'mnist' in {version} is damaged", "experiments.prepare")


@pytest.mark.parametrize(
    ("key", "place", "value", "fragments"),
    [
        ("label", 7, 3, ("example 7 has label 3", "0..2")),
        ("label", 0, -1, ("example 0 has label -1", "0..2")),
        ("image", (5, 1, 2, 0), np.nan, ("example 5 holds NaN", "finite")),
        ("image", (5, 1, 2, 0), np.inf, ("example 5 holds NaN or infinity", "finite")),
    ],
)
def test_an_impossible_example_is_named(call, tmp_path, monkeypatch, key, place, value, fragments):
    features = {"image": Image((4, 4, 1)), "label": ClassLabel(("a", "b", "c"))}
    images = np.zeros((60, 4, 4, 1), np.float32)
    arrays = {"image": images, "label": np.arange(60, dtype=np.int32) % 3}
    arrays[key][place] = value

    def own(name: str, options: data.ExampleOptions) -> data.Dataset:
        return data.from_arrays(features, {"train": arrays}, options, name)

    known = registration.entry
    entry = registration.Entry(own, data.ExampleOptions)
    monkeypatch.setattr(registration, "names", lambda: ["own"])
    monkeypatch.setattr(registration, "entry", lambda name: entry if name == "own" else known(name))
    words = (*SOFTMAX, "--data=own", "--batch_size=8", f"--workdir={tmp_path / 'new'}")
    assert_refused(call(train, *words), "split 'train' of dataset 'own'", *fragments)
    assert not (tmp_path / "new").exists()


# Paths.

PROGRAMS = {
    train: SOFTMAX,
    evaluate: (),
    predict: ("photo.png",),
    export: (),
    find_rate: SOFTMAX[:1],
    study: ("--study=hopfield",),
    reproduce: ("--recipes=lenet5_digits",),
}


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.__name__)
@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("gs://b/x", "gs:// is not supported"),
        ("~no-such-user/x", "~no-such-user has no home directory"),
        ("runs/[x]", "checkpoints below [x] could not be read back"),
        ("runs/a\\b", "checkpoints below a\\b could not be read back"),
    ],
)
def test_a_workdir_that_cannot_be_used_is_refused_by_every_program(
    call, tmp_path, monkeypatch, program, place, message
):
    monkeypatch.chdir(tmp_path)
    result = call(program, *PROGRAMS[program], f"--workdir={place}")
    assert_refused(result, f"--workdir={place}: {message}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("program", "words", "field"),
    [
        (export, ("--output=gs://b/x",), "--output"),
        (predict, ("gs://b/x",), "file"),
        (evaluate, ("--data_dir=gs://b/x",), "--data_dir"),
        (table_of_models, ("--plot=gs://b/x",), "--plot"),
        (prepare, ("--dataset=mnist", "--data_dir=gs://b/x"), "--data_dir"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_any_other_path_has_to_be_on_this_machine_too(call, digits_run, program, words, field):
    where = (f"--workdir={digits_run}",) if program in (evaluate, export, predict) else ()
    assert_refused(call(program, *where, *words), f"{field}=gs://b/x: gs:// is not supported")


def test_a_pipe_in_the_place_of_weights_is_not_waited_for(call, tmp_path):
    pipe = tmp_path / "w.safetensors"
    os.mkfifo(pipe)
    result = call(train, *DIGITS, f"--start_from={pipe}", f"--workdir={tmp_path / 'new'}")
    assert_refused(result, f"--start_from={pipe}: it is neither a file nor a directory")


def test_home_stands_for_a_tilde(call, digits_run, monkeypatch):
    monkeypatch.setenv("HOME", str(digits_run.parent))
    code, output, _ = call(train, *DIGITS_RUN, f"--workdir=~/{digits_run.name}")
    assert code == 0
    assert f"{digits_run}: this run is complete" in output


@pytest.mark.parametrize("program", [train, find_rate], ids=["train", "find_rate"])
def test_a_workdir_in_the_data_is_refused(call, pictures, program):
    before = files(pictures)
    words = (*SOFTMAX[:1], "--model=softmax_regression", f"--data={pictures}")
    result = call(program, *words, f"--workdir={pictures / 'run'}")
    assert_refused(result, f"--workdir={pictures / 'run'} lies in the data, {pictures}")
    assert files(pictures) == before


# Advice.


def test_no_message_advises_anyone_to_delete_files():
    advice = re.compile(r"\b(delete|remove|erase) (it|them|that|this|the)\b|\brm -")
    for package in ("dlcore", "experiments", "kernels"):
        for path in (ROOT / package).rglob("*.py"):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            messages = [
                part.value
                for call in ast.walk(tree)
                if isinstance(call, ast.Call)
                for part in ast.walk(call)
                if isinstance(part, ast.Constant) and isinstance(part.value, str)
            ]
            assert not [line for line in messages if advice.search(line)], path
