"""One command trains, resumes, or says that the run is complete."""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal

import jax
import numpy as np
import pytest

from dlcore.train import Run, callbacks, preparation, session
from experiments import recipes, train
from tests.experiments.conftest import launch

DIGITS = ("--recipe=lenet5_digits", "--batch_size=64")
SOFTMAX = (*DIGITS, "--model=softmax_regression", "--data.resize=0", "--data.augment=")
# Where nobody looks at them.
NO_FIGURES = "--evaluators=-learning_curves -filters -predictions"


def contents(directory: pathlib.Path) -> dict[str, tuple[bytes, int]]:
    """Every file's content and time of change, but for the lock's."""
    return {
        str(path.relative_to(directory)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in directory.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def summary_of(directory):
    return json.loads((directory / "summary.json").read_text())


def without_times(summary):
    return {name: value for name, value in summary.items() if "seconds" not in name}


@pytest.fixture(scope="module")
def softmax_run(tmp_path_factory) -> pathlib.Path:
    """Four epochs of softmax regression: copy it. Made with the flags of `GOES_ON`."""
    return launch(tmp_path_factory.mktemp("softmax") / "run", *GOES_ON)


GOES_ON = (*SOFTMAX, NO_FIGURES, "--num_epochs=4", "--log_every=7", "--checkpoint_every=9")


@pytest.fixture
def copy(softmax_run, tmp_path) -> pathlib.Path:
    return shutil.copytree(softmax_run, tmp_path / "copy")


# What a run leaves.


def test_a_run_leaves_all_that_it_promises(digits_run):
    expected = {
        "recipe.json",
        "metrics.jsonl",
        "summary.json",
        "test_outputs.npz",
        "plots/learning_curves.png",
        "plots/confusion_matrix.png",
        "plots/filters.png",
    }
    assert expected <= contents(digits_run).keys()
    assert list((digits_run / "tensorboard").iterdir())
    assert (digits_run / "checkpoints" / str(summary_of(digits_run)["step"])).is_dir()
    for path in (digits_run / "plots").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")


def test_the_summary_agrees_with_the_outputs_and_the_records(digits_run):
    summary = summary_of(digits_run)
    with np.load(digits_run / "test_outputs.npz", allow_pickle=False) as stored:
        labels, predictions = stored["label"], stored["prediction"]
        np.testing.assert_array_equal(stored["probability"].argmax(-1), predictions)
        confusion = np.zeros((10, 10), int)
        np.add.at(confusion, (labels, predictions), 1)
        np.testing.assert_array_equal(stored["confusion"], confusion)
    assert summary["test"]["accuracy"] == pytest.approx((labels == predictions).mean(), abs=1e-12)
    assert summary["parameters"] == 15_626
    assert (summary["status"], summary["resumed"]) == ("complete", False)
    lines = (digits_run / "metrics.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == summary["step"]
    validation = {
        record["step"]: record["accuracy"]
        for record in map(json.loads, lines)
        if record["split"] == "validation"
    }
    best = summary["best"]
    assert best["value"] == validation[best["step"]] == max(validation.values())
    assert summary["validation"]["accuracy"] == best["value"]


def test_every_flag_is_in_the_recipe_that_is_saved(call, tmp_path):
    given = {
        "learning_rate": 0.002,
        "optimizer": "all_together",
        "schedule": "step",
        "decay_steps": 7,
        "clip_average_factor": 1.5,
        "weight_decay": 0.01,
        "l1": 0.001,
        "gradient_noise": 0.02,
        "gradient_noise_decay": 0.5,
        "epsilon": 0.001,
        "ema_decay": 0.5,
        "accumulate": 2,
        "batch_size": 100,
        "num_epochs": 1,
        "seed": 3,
    }
    words = [f"--{name}={value}" for name, value in given.items()]
    options = ("--model=mlp", "--model.hidden=6,5", "--data.augment=crop", "--data.resize=12")
    command = ("--recipe=lenet5_digits", NO_FIGURES, *options, *words)
    code, output, _ = call(train, *command, f"--workdir={tmp_path / 'run'}")
    assert code == 0
    recipe = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert {name: recipe[name] for name in given} == given
    assert recipe["model"] == "mlp"
    # 144 pixels into 6, 5 and 10 units.
    assert recipe["model_options"]["hidden"] == [6, 5]
    assert "965" in output
    assert (recipe["data_options"]["augment"], recipe["data_options"]["resize"]) == ("crop", 12)


# Again.


def test_a_complete_run_says_so_and_touches_nothing(call, copy):
    before = contents(copy)
    code, output, _ = call(train, *GOES_ON, f"--workdir={copy}")
    assert code == 0
    assert f"{copy}: this run is complete" in output
    assert f"{summary_of(copy)['test']['accuracy']:.4f}" in output
    assert contents(copy) == before


def test_a_run_that_only_lacks_its_summary_gets_the_same_one(call, copy):
    expected, records = summary_of(copy), (copy / "metrics.jsonl").read_bytes()
    (copy / "summary.json").unlink()
    assert call(train, *GOES_ON, f"--workdir={copy}")[0] == 0
    assert without_times(summary_of(copy)) == {**without_times(expected), "resumed": True}
    assert (copy / "metrics.jsonl").read_bytes() == records


def break_newest(directory: pathlib.Path) -> int:
    newest = max(int(path.name) for path in (directory / "checkpoints").iterdir())
    (directory / "checkpoints" / str(newest) / "state" / "_METADATA").unlink()
    return newest


def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_it_used(call, copy):
    expected, records = summary_of(copy), (copy / "metrics.jsonl").read_bytes()
    (copy / "summary.json").unlink()
    assert break_newest(copy) == 80
    code, _, errors = call(train, *GOES_ON, f"--workdir={copy}")
    assert code == 0
    assert f"checkpoint 80 is damaged (state/_METADATA is missing): moved to {copy}" in errors
    assert "resumed at step 72" in errors
    assert (copy / "damaged" / "80").is_dir()
    assert without_times(summary_of(copy)) == {**without_times(expected), "resumed": True}
    assert (copy / "metrics.jsonl").read_bytes() == records


def test_a_run_may_go_on_under_another_parallelism_and_says_so(call, copy):
    (copy / "summary.json").unlink()
    break_newest(copy)
    code, _, errors = call(train, *GOES_ON, "--parallelism=fsdp", f"--workdir={copy}")
    assert code == 0
    assert "made under jit on 1, this is fsdp on 8: equal to rounding, not bitwise" in errors
    assert summary_of(copy)["devices"]["parallelism"] == "fsdp"


def test_sigterm_saves_and_exits_with_0_and_the_same_command_goes_on(
    call, softmax_run, tmp_path, monkeypatch
):
    class Terminated(callbacks.ProgressBar):
        def on_step(self, step):
            super().on_step(step)
            if step == 33:
                os.kill(os.getpid(), signal.SIGTERM)

    directory = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(session, "ProgressBar", Terminated)
        code, output, _ = call(train, *GOES_ON, f"--workdir={directory}")
    assert code == 0
    assert "stopped (SIGTERM at step 33), saved; run the same command again" in output
    assert not (directory / "summary.json").exists()
    code, _, errors = call(train, *GOES_ON, f"--workdir={directory}")
    assert code == 0
    assert "resumed at step 33" in errors
    expected = (softmax_run / "metrics.jsonl").read_bytes()
    assert (directory / "metrics.jsonl").read_bytes() == expected
    assert without_times(summary_of(directory)) == {
        **without_times(summary_of(softmax_run)),
        "resumed": True,
    }


# Other ways to train.


def test_seeds_are_trained_one_by_one_and_reported_together(call, tmp_path):
    words = (*SOFTMAX, NO_FIGURES, "--num_epochs=1", "--seeds=0,3")
    words = (*words, f"--workdir={tmp_path / 'runs'}")
    code, output, _ = call(train, *words)
    assert code == 0
    summaries = [summary_of(tmp_path / "runs" / f"seed_{seed}") for seed in (0, 3)]
    scores = [summary["test"]["accuracy"] for summary in summaries]
    assert scores[0] != scores[1]
    mean, deviation = sum(scores) / 2, abs(scores[0] - scores[1]) / 2**0.5
    assert f"{mean:.4f} +- {deviation:.4f}" in output
    seeds = [
        json.loads((tmp_path / "runs" / f"seed_{s}" / "recipe.json").read_text())["seed"]
        for s in (0, 3)
    ]
    assert seeds == [0, 3]
    before = contents(tmp_path / "runs")
    assert f"{mean:.4f} +- {deviation:.4f}" in call(train, *words)[1]
    assert contents(tmp_path / "runs") == before


@pytest.mark.slow
def test_a_few_examples_are_learned_by_heart(call, tmp_path):
    small = ("--model=mlp", "--model.hidden=32", "--data.resize=0", NO_FIGURES)
    words = (*DIGITS, *small, "--overfit=20", f"--workdir={tmp_path / 'run'}")
    assert call(train, *words)[0] == 0
    summary = summary_of(tmp_path / "run")
    assert summary["validation"]["loss"] <= 0.01
    assert summary["validation"]["accuracy"] == 1
    assert summary["learned_by_heart"] is True
    assert summary["step"] < 1000


@pytest.mark.slow
def test_what_cannot_be_learned_by_heart_is_an_error(call, tmp_path):
    words = (*SOFTMAX, "--overfit=20", "--learning_rate=1e-9", f"--workdir={tmp_path / 'run'}")
    code, _, errors = call(train, *words)
    assert code == 1
    assert re.search(r"error: --overfit=20: the loss is still 2\.3\d* after 3000 steps", errors)


def test_a_dry_run_shows_the_training_and_writes_nothing(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, output, _ = call(train, *DIGITS, "--data.augment=", "--dry_run")
    assert code == 0
    assert "C1" in output
    assert re.search(r"parameters +61,706", output)
    (operations,) = re.findall(r"floating-point operations a step +([\d,]+)", output)
    # Three passes over 64 images of 416,520 multiplications and additions each, to a factor of 2.
    assert 0.5 < int(operations.replace(",", "")) / (3 * 64 * 2 * 416_520) < 2
    (held,) = re.findall(r"bytes of state and batch +([\d,]+)", output)
    # Parameters and Adam's two moments in float32, and the images.
    assert int(held.replace(",", "")) == pytest.approx(3 * 4 * 61_706 + 64 * 28 * 28 * 4, rel=0.02)
    assert re.search(r"bytes of temporaries +[\d,]+", output)
    assert list(tmp_path.iterdir()) == []


def test_a_profile_is_left_on_demand(call, tmp_path):
    words = (*SOFTMAX, NO_FIGURES, "--num_epochs=1", "--profile", f"--workdir={tmp_path / 'run'}")
    assert call(train, *words)[0] == 0
    assert list((tmp_path / "run" / "profile").rglob("*.xplane.pb"))


# Numbers that are not finite.


def test_a_training_that_diverges_ends_with_step_metric_and_checkpoint(call, tmp_path):
    words = ("--learning_rate=1e38", "--optimizer=sgd", "--checkpoint_every=1", "--num_epochs=1")
    directory = tmp_path / "run"
    code, _, errors = call(train, *SOFTMAX, *words, f"--workdir={directory}")
    assert code == 1
    line = errors.splitlines()[-1]
    match = re.match(r"error: step (\d+): loss is (\S+) and gradient norm is (\S+); last", line)
    assert not np.isfinite([float(match[2]), float(match[3])]).all()
    good = int(match[1]) - 1
    assert f"last good checkpoint: step {good} in {directory}/checkpoints/{good}" in line
    assert "Traceback" not in errors
    assert not (directory / "summary.json").exists()


def test_skipped_updates_are_counted_in_the_summary_of_a_run_that_learned_nothing(call, tmp_path):
    # The first update is too large, and every later one is therefore not finite.
    words = ("--learning_rate=1e38", "--optimizer=sgd", "--on_nonfinite=skip", "--num_epochs=1")
    directory = tmp_path / "run"
    code, _, errors = call(train, *SOFTMAX, NO_FIGURES, *words, f"--workdir={directory}")
    assert code == 1, errors
    skipped = summary_of(directory)["skipped_updates"]
    assert 0 < skipped < 20
    assert (
        f"error: the run learned nothing: its validation loss is not finite, and {skipped} of 20"
        in errors
    )


def test_a_hundred_skipped_updates_in_a_row_end_it(call, tmp_path):
    words = ("--learning_rate=1e38", "--optimizer=sgd", "--on_nonfinite=skip", "--num_epochs=8")
    code, _, errors = call(train, *SOFTMAX, *words, f"--workdir={tmp_path / 'run'}")
    assert code == 1
    assert "after 100 skipped updates in a row" in errors.splitlines()[-1]


# What reacts to the training, or happens once in it.


def records_of(directory, split):
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [record for record in map(json.loads, lines) if record["split"] == split]


def test_the_whole_training_split_is_one_batch(call, tmp_path):
    words = (*SOFTMAX[:1], *SOFTMAX[2:], "--batch_size=0", "--optimizer=sgd", "--schedule=constant")
    more = (NO_FIGURES, "--learning_rate=0.01", "--num_epochs=2", f"--workdir={tmp_path}")
    assert call(train, *words, *more)[0] == 0
    recipe = json.loads((tmp_path / "recipe.json").read_text())
    assert recipe["batch_size"] == 1294
    first, second = records_of(tmp_path, "train")
    # An epoch is a step, and one small step down the gradient lowers the loss of the same examples.
    assert [first["step"], second["step"]] == [first["epoch"], second["epoch"]] == [1, 2]
    assert first["loss"] == pytest.approx(np.log(10), rel=1e-5)
    fallen = first["loss"] - second["loss"]
    assert fallen == pytest.approx(0.01 * first["gradient_norm"] ** 2, rel=0.1)


def test_flags_alone_prune_and_fine_tune(call, tmp_path):
    words = ("--prune_fraction=0.9", "--prune_epoch=2", "--num_epochs=4", f"--workdir={tmp_path}")
    assert call(train, *SOFTMAX, NO_FIGURES, *words)[0] == 0
    before, after = (record["accuracy"] for record in records_of(tmp_path, "validation")[1:3])
    assert before != after
    # However good it was before, only what is pruned is a candidate.
    assert summary_of(tmp_path)["best"]["step"] > 40
    (layer,) = jax.device_get(Run(tmp_path).trained().variables["params"]).values()
    assert (layer["kernel"] == 0).sum() == round(0.9 * layer["kernel"].size)
    assert (layer["bias"] != 0).all()


def test_flags_alone_make_the_rate_fall_on_a_plateau_and_restart(call, tmp_path):
    # So high a rate that the accuracy soon stalls.
    words = ("--schedule=plateau", "--plateau_patience=1", "--decay_factor=0.5", "--num_epochs=6")
    more = ("--restart_from_best", "--learning_rate=0.5", f"--workdir={tmp_path}", "--log_every=20")
    assert call(train, *SOFTMAX, NO_FIGURES, *words, *more)[0] == 0
    rates = [record["learning_rate"] for record in records_of(tmp_path, "train")]
    accuracies = [record["accuracy"] for record in records_of(tmp_path, "validation")]
    expected, best = [0.5], 0.0
    for accuracy in accuracies[:-1]:
        expected.append(expected[-1] * (0.5 if accuracy <= best else 1.0))
        best = max(best, accuracy)
    assert rates == pytest.approx(expected)
    assert rates[-1] < 0.5


def test_flags_alone_give_normalization_the_statistics_of_the_training_set():
    recipe = dataclasses.replace(
        recipes.get("lenet5_digits"), model="convnet_bn", recompute_statistics=True
    )
    moments = preparation.prepare(recipe).program.moments
    assert moments is not None


# A text.


@pytest.mark.slow
def test_a_text_of_ones_own_is_learned_and_continued(call, tmp_path):
    text = "the quick brown fox jumps over the lazy dog.\n" * 60
    (tmp_path / "fox.txt").write_text(text)
    words = ("--recipe=char_lstm_shakespeare", f"--data={tmp_path / 'fox.txt'}")
    small = ("--model.hidden=16", "--model.layers=1", "--data.sequence_length=8", "--num_epochs=1")
    small = (*small, "--evaluators=-learning_curves -filters continuation:length=40")
    code, _, errors = call(train, *words, *small, f"--workdir={tmp_path / 'run'}")
    assert code == 0, errors
    sample = (tmp_path / "run" / "sample.txt").read_text()
    assert len(sample) >= 40
    assert set(sample) <= set(text)


def test_a_text_that_is_to_be_learned_by_heart_is_one_row_for_one_device(call, tmp_path):
    (tmp_path / "fox.txt").write_text("the quick brown fox jumps over the lazy dog.\n" * 60)
    words = ("--recipe=char_lstm_shakespeare", f"--data={tmp_path / 'fox.txt'}", "--overfit=2")
    command = (*words, "--parallelism=data", f"--workdir={tmp_path / 'run'}")
    code, _, errors = call(train, *command)
    assert code == 2
    assert "--overfit=2 makes the batch 1, which does not divide over the 8 device(s)" in errors
    assert "--parallelism=jit" in errors


# Groups, evaluators, weights to start from, and runs that are needed first.


def params_of(directory):
    return jax.device_get(Run(directory).trained().variables["params"])


def test_flags_alone_start_from_a_run_freeze_a_part_and_choose_who_looks(
    call, softmax_run, tmp_path
):
    words = (*SOFTMAX, "--num_epochs=2", f"--start_from={softmax_run}")
    more = ("--start_mapping=logits/kernel<- <-logits/kernel", "--groups=.*/bias:frozen")
    seen = "--evaluators=learning_curves:every=1 -predictions -filters"
    directory = tmp_path / "run"
    code, _, errors = call(train, *words, *more, seen, f"--workdir={directory}")
    assert code == 0, errors
    source, found = params_of(softmax_run)["logits"], params_of(directory)["logits"]
    np.testing.assert_array_equal(found["bias"], source["bias"])
    assert not np.array_equal(found["kernel"], source["kernel"])
    figures = {str(path.relative_to(directory)) for path in directory.rglob("*.png")}
    assert figures == {
        "plots/learning_curves.png",
        "evaluations/step_20/plots/learning_curves.png",
        "evaluations/step_40/plots/learning_curves.png",
    }
    assert not (directory / "test_outputs.npz").exists()


@pytest.mark.slow
def test_another_judge_is_trained_first_on_the_same_data(call, tmp_path):
    small = ("--model.generator_hidden=8", "--model.discriminator_hidden=8", "--num_epochs=1")
    judged = "--evaluators=judged_samples:count=60 -samples -learning_curves -filters"
    words = ("--recipe=gan_digits", "--needs.judge=softmax_regression_mnist", *small, judged)
    code, _, errors = call(train, *words, f"--workdir={tmp_path / 'run'}")
    assert code == 0, errors
    judge = Run(tmp_path / "run" / "judge")
    assert (judge.recipe.name, judge.recipe.data) == ("softmax_regression_mnist", "digits")
    assert judge.summary["test"]["accuracy"] > 0.8
    assert summary_of(tmp_path / "run")["test"]["frechet_ratio"] > 0
    code, _, errors = call(train, *words[:1], *small, judged, f"--workdir={tmp_path / 'run'}")
    assert code == 2
    told = "--needs.judge=softmax_regression_mnist, this one has --needs.judge=lenet5_digits"
    assert told in errors
