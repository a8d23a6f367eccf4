"""Bad input: one clear line that names it and says what would be right, exit code 2, nothing lost.

A row is a command line and what its message has to say. The program is called in this process; a
few rows are also given to a shell.
"""

import ast
import pathlib
import re
import subprocess
import sys

import pytest

from experiments import train
from tests.experiments.refusals import DIGITS, SOFTMAX, assert_refused

ROOT = pathlib.Path(__file__).parents[2]
MLP = (*DIGITS, "--model=mlp")
PLATEAU = (*DIGITS, "--schedule=plateau", "--plateau_patience=2")
PRUNED = (*DIGITS, "--prune_fraction=0.5")


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
    (
        (*DIGITS, "--model.dropout_rate=1"),
        "--model.dropout_rate=1.0: it must be at least 0 and below 1",
    ),
    ((*DIGITS, "--model.input_noise=-1"), "--model.input_noise=-1.0: it must be at least 0"),
    ((*MLP, "--model.window=40,2"), "--model.window=40,2 does not fit inputs of 28x28x1"),
    ((*MLP, "--initializer=xaver"), "unknown initializer 'xaver'", "xavier, glorot"),
    ((*MLP, "--initializer=kumar:relu"), "kumar needs an activation with a derivative at 0"),
    ((*MLP, "--initializer=lsuv:row"), "initializer 'lsuv:row'", "layer or unit"),
    # Values that mean nothing, for what they are given to.
    ((*DIGITS, "--step_timeout=nan"), "--step_timeout=nan: it must be at least 1, or 0"),
    ((*DIGITS, "--step_timeout=1e-9"), "--step_timeout=1e-09: it must be at least 1, or 0"),
    ((*DIGITS, "--data.augment=crop:28"), "--data.augment has crop:28", "28 x 28 pixels"),
    ((*DIGITS, "--data.augment=shift:100000"), "--data.augment has shift:100000", "28 x 28 pixels"),
    ((*DIGITS, "--data.augment=shift:1.5"), "'shift:1.5': its strength must be a whole number"),
    ((*DIGITS, "--data.augment=time_mask"), "--data.augment has 'time_mask', which is for series"),
    # Sizes that cannot be had.
    (
        (*MLP, "--model.hidden=1000000000"),
        "--model=mlp needs 9,540.0 GB",
        "3,180.0 GB for the parameters",
    ),
    ((*MLP, "--model.hidden=1000000000000"), "--model.hidden=1000000000000: it must be at most 2"),
    ((*DIGITS, "--data.pad=100000"), "GB for a prepared batch", "lower --batch_size=64"),
    ((*DIGITS, "--data.resize=100000"), "dataset 'digits'", "the shape (100000, 100000, 1)", "GB"),
    (
        ("--recipe=lenet5_digits", "--data=synthetic", "--data.resize=10000000"),
        "dataset 'synthetic'",
        "the shape (10000000, 10000000, 3)",
    ),
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
    ((*DIGITS, "--ema_decay=1"), "--ema_decay=1.0", "at least 0 and below 1"),
    ((*DIGITS, "--keep=0"), "--keep=0", "at least 1"),
    ((*DIGITS, "--checkpoint_every=-1"), "--checkpoint_every=-1", "at least 0"),
    ((*DIGITS, "--step_timeout=-1"), "--step_timeout=-1", "at least 1, or 0"),
    (
        (*DIGITS, "--data.validation_fraction=1.5"),
        "--data.validation_fraction=1.5",
        "at least 0 and below 1",
    ),
    (
        (*DIGITS, "--data.test_fraction=0.9999"),
        "no examples for the train split",
        "--data.test_fraction",
    ),
    ((*DIGITS, "--data.split_seed=-1"), "--data.split_seed=-1", "at least 0"),
    ((*DIGITS, "--task.criterion=mse"), "unknown criterion 'mse'", "cross_entropy, hinge"),
    (
        ("--recipe=multitask_digits", "--task.tag_weight=-1"),
        "--task.tag_weight=-1.0",
        "at least 0",
    ),
    (
        (*DIGITS, "--task.label_smoothing=2"),
        "--task.label_smoothing=2.0: it must be at least 0 and below 1",
    ),
    ((*DIGITS, "--overfit=5000"), "--overfit=5000", "from 1 to 1294"),
    ((*DIGITS, "--overfit=-1"), "--overfit=-1", "at least 0"),
    (
        ("--recipe=perceptron_digits", "--overfit=20"),
        "--overfit=20",
        "--task=perceptron has a rule of its own",
    ),
    ((*DIGITS, "--model.num_classes=3"), "--model.num_classes=3 does not fit: digits has 10"),
    ((*DIGITS, "--patience=-1"), "--patience=-1", "at least 0"),
    ((*DIGITS, "--plateau_patience=-1"), "--plateau_patience=-1", "at least 0"),
    ((*DIGITS, "--decay_steps=-1"), "--decay_steps=-1", "at least 0"),
    ((*DIGITS, "--seed=2147483648"), "--seed=2147483648", "at most 2147483647"),
    ((*DIGITS, "--seeds=0,-1"), "--seeds=0,-1", "at least 0"),
    ((*DIGITS, "--task.rubbish_penalty=nan"), "--task.rubbish_penalty=nan", "at least 0"),
    ((*MLP, "--model.input_noise=inf"), "--model.input_noise=inf", "at least 0"),
    ((*DIGITS, "--log_every=-1"), "--log_every=-1", "at least 0"),
    ((*DIGITS, "--batch_size=-1"), "--batch_size=-1", "at least 0"),
    ((*DIGITS, "--schedule=plateau"), "--plateau_patience=0", "needs at least 1"),
    ((*PLATEAU, "--patience=2"), "--patience=2", "more than --plateau_patience=2"),
    ((*PLATEAU, "--decay_factor=1"), "--decay_factor=1.0", "--schedule=plateau needs less"),
    ((*PLATEAU, "--data.validation_fraction=0"), "--schedule=plateau", "validation split"),
    ((*DIGITS, "--restart_from_best"), "--restart_from_best", "--schedule=cosine does not react"),
    ((*DIGITS, "--prune_fraction=1"), "--prune_fraction=1.0", "at least 0 and below 1"),
    ((*PRUNED, "--prune_epoch=1"), "--prune_epoch=1", "less than --num_epochs=1"),
    ((*PRUNED, "--prune_epoch=-1"), "--prune_epoch=-1", "at least 0"),
    ((*PRUNED, "--ema_decay=0.9"), "--ema_decay=0.9", "--prune_fraction=0.5", "--ema_decay=0"),
    ((*MLP, "--recompute_statistics"), "--recompute_statistics", "MLP has no batch normalization"),
    ((*DIGITS, "--seed=-1"), "--seed=-1", "at least 0"),
    ((*DIGITS, "--patience=3", "--data.validation_fraction=0"), "--patience=3", "validation split"),
    ((*MLP, "--model.hidden=0"), "--model.hidden=0", "at least 1"),
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
    ((*DIGITS, "--model=multitask_mlp"), "does not fit", "1 input(s) and 2 output(s)"),
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
        "at least 0",
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
    command = [sys.executable, "-m", "experiments.train", *SOFTMAX, "--workdir=/dev/null/run"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False
    )
    assert_refused(
        (done.returncode, done.stdout, done.stderr),
        "--workdir=/dev/null/run: a part of it is a file, where a directory is needed",
    )
    assert len(done.stderr.splitlines()) == 1


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
