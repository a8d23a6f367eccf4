"""The search for a learning rate: its table, JSON and figure, and rates that diverge."""

import dataclasses
import json
import re

import numpy as np
import pytest

from dlcore.errors import NotFiniteError
from dlcore.train import Settings
from experiments import find_rate, recipes

SOFTMAX = (
    "--recipe=lenet5_digits",
    "--model=softmax_regression",
    "--data.resize=0",
    "--data.augment=",
    "--optimizer=sgd",
    "--batch_size=64",
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("rates") / "rates"


def read(directory, method):
    assert (directory / f"{method}.png").read_bytes().startswith(b"\x89PNG")
    return json.loads((directory / f"{method}.json").read_text())


@pytest.mark.slow
def test_the_rate_with_the_best_validation_is_found_among_successive_ones(call, directory):
    words = (*SOFTMAX, "--rates=1e38,0.1,1e-6", "--epochs=2", f"--workdir={directory}")
    code, output, errors = call(find_rate, *words)
    assert code == 0, errors
    found = read(directory, "successive")
    assert [trial["rate"] for trial in found["trials"]] == [1e38, 0.1, 1e-6]
    diverged, best, slow = found["trials"]
    assert diverged["status"] == "diverged"
    assert re.fullmatch(r"step 2: loss is \w+ and gradient norm is \w+", diverged["reason"])
    assert best["accuracy"] > slow["accuracy"]
    assert best["training_loss"] < slow["training_loss"]
    assert (found["metric"], found["best_rate"]) == ("accuracy", 0.1)
    summary = json.loads((directory / "rate_0.1" / "summary.json").read_text())
    assert summary["best"]["value"] == best["accuracy"]
    assert json.loads((directory / "rate_0.1" / "recipe.json").read_text())["num_epochs"] == 2
    lines = dict(line.split(maxsplit=1) for line in output.splitlines())
    assert lines["1e+38"].startswith("step 2: loss is ")
    assert lines["0.1"].endswith(f"accuracy {best['accuracy']:.4f}")
    assert lines["best"] == "0.1 by accuracy"
    # Again, the runs that are complete are only read.
    before = (directory / "rate_0.1" / "summary.json").stat().st_mtime_ns
    assert call(find_rate, *words)[0] == 0
    assert (directory / "rate_0.1" / "summary.json").stat().st_mtime_ns == before
    assert read(directory, "successive") == found


@pytest.fixture
def trained(monkeypatch):
    """`trained(outcomes)` stands in for trainings: what came of each, by rate."""

    def stand_in(outcomes):
        def train(recipe, settings, directory):
            outcome = outcomes[recipe.learning_rate]
            directory.mkdir(parents=True)
            (directory / "metrics.jsonl").touch()
            if outcome == "diverged":
                raise NotFiniteError("step 2: loss is nan; lower it")
            if outcome == "stopped":
                return {"status": "stopped", "reason": "SIGTERM at step 3"}
            loss, best = outcome
            record = {"step": 5, "epoch": 1.0, "split": "train", "loss": loss}
            (directory / "metrics.jsonl").write_text(json.dumps(record) + "\n")
            return {"status": "complete", "best": best}

        monkeypatch.setattr(find_rate.train, "train", train)

    return stand_in


def search(directory, task="classification"):
    recipe = dataclasses.replace(recipes.get("lenet5_digits"), task=task)
    return find_rate.successive(recipe, Settings(), directory, [0.1, 0.01, 0.001])


def validated(metric, value):
    return {"step": 5, "metric": metric, "value": value}


@pytest.mark.parametrize(
    ("task", "outcomes", "metric", "best"),
    [
        ("classification", [(0.5, None), (0.2, None), (0.4, None)], "training_loss", 0.01),
        (
            "language_model",
            [(1, validated("loss", 3)), (1, validated("loss", 5)), (1, validated("loss", 2))],
            "loss",
            0.001,
        ),
        # No validation of the second was finite, nor the last training loss of the third.
        (
            "classification",
            [(0.5, validated("accuracy", 0.7)), (0.1, None), (None, validated("accuracy", 0.9))],
            "accuracy",
            0.1,
        ),
        ("classification", ["diverged", (9.0, None), "diverged"], "training_loss", 0.01),
        ("classification", ["diverged"] * 3, "training_loss", None),
    ],
)
def test_the_metric_that_is_watched_decides_or_the_training_loss(
    trained, tmp_path, task, outcomes, metric, best
):
    trained(dict(zip([0.1, 0.01, 0.001], outcomes, strict=True)))
    found = search(tmp_path, task)
    assert (found["metric"], found["best_rate"]) == (metric, best)
    assert find_rate.successive_table(found).splitlines()[-1].split() == [
        *("best", str(best), "by", metric)
    ]
    assert find_rate.draw_successive(found, tmp_path).axes


def test_a_search_that_is_stopped_says_so(trained, tmp_path):
    trained({0.1: (0.5, None), 0.01: "stopped"})
    assert search(tmp_path)["status"] == "stopped"


def test_a_range_test_follows_the_loss_while_the_rate_grows(call, directory):
    words = (*SOFTMAX, "--method=range", "--lowest=1e-4", "--highest=1e4", "--epochs=3")
    code, output, errors = call(find_rate, *words, f"--workdir={directory}")
    assert code == 0, errors
    found = read(directory, "range")
    rates = np.asarray(found["rate"])
    # Three epochs of 20 updates, by equal ratios, until it diverged.
    np.testing.assert_allclose(rates, np.geomspace(1e-4, 1e4, 60)[: len(rates)])
    assert len(found["loss"]) == len(found["smoothed"]) == len(rates) < 60
    assert found["diverged_at"] == rates[-1]
    assert 1e-4 < found["steepest"] <= found["lowest"] < found["diverged_at"]
    assert found["smoothed"][-1] > found["smoothed"][0] > min(found["smoothed"])
    assert f"{found['lowest']:.3g}" in output


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ((), "--recipe is missing"),
        ((SOFTMAX[0],), "--workdir is missing"),
        ((*SOFTMAX, "--workdir=x", "--method=best"), "--method=best: it is successive or range"),
        ((*SOFTMAX, "--workdir=x", "--epochs=0"), "--epochs=0"),
        ((*SOFTMAX, "--workdir=x", "--num_epochs=3"), "--num_epochs is .* use --epochs"),
        ((*SOFTMAX, "--workdir=x", "--learning_rate=3"), "--learning_rate is .* use --rates"),
        ((*SOFTMAX, "--workdir=x", "--rates=0.1,fast"), "--rates=0.1,fast: it takes numbers"),
        ((*SOFTMAX, "--workdir=x", "--rates=0.1,-0.1"), "--rates=0.1,-0.1: it takes numbers above"),
        ((*SOFTMAX, "--workdir=x", "--rates=nan"), "--rates=nan: it takes numbers above 0"),
        ((*SOFTMAX, "--workdir=x", "--rates="), "--rates=: it takes numbers above 0"),
        ((*SOFTMAX, "--workdir=x", "--overfit=20"), "--overfit has no part in the search"),
        ((*SOFTMAX, "--workdir=x", "--prune_fraction=3"), "--prune_fraction has no part"),
        (("--recipe=gan_digits", "--workdir=x"), "--task=gan has no loss that says which rate"),
        ((*SOFTMAX, "--workdir=/dev/null"), "--workdir=/dev/null is a file"),
        (
            (*SOFTMAX, "--workdir=x", "--method=range", "--lowest=0"),
            "--lowest=0.0: it must be above 0",
        ),
        (
            (*SOFTMAX, "--workdir=x", "--method=range", "--lowest=2", "--highest=1"),
            "--lowest=2.0 and --highest",
        ),
        ((*SOFTMAX, "--workdir=x", "--method=range", "--batch_size=600"), "12 are needed"),
    ],
)
def test_bad_input_is_refused_by_name(call, tmp_path, monkeypatch, words, named):
    monkeypatch.chdir(tmp_path)
    code, _, errors = call(find_rate, *words)
    assert code == 2
    assert "Traceback" not in errors
    assert re.search(named, errors.splitlines()[-1])


def test_a_directory_that_cannot_be_written_is_refused_before_the_work(call, monkeypatch):
    monkeypatch.setattr(find_rate.rate_range, "run", lambda *_: pytest.fail("work began"))
    code, _, errors = call(find_rate, *SOFTMAX, "--method=range", "--workdir=/proc/rates")
    assert code == 2
    assert errors.startswith("error: --workdir=/proc/rates cannot be written: in /proc no file")
