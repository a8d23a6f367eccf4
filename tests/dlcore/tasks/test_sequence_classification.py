"""Classification of sequences: what a model is given, and the scores of uneven classes."""

import jax.numpy as jnp
import numpy as np
import pytest
import sklearn.metrics

from dlcore import data, metrics, models, tasks
from dlcore.data.features import ClassLabel, Series
from dlcore.errors import UsageError
from dlcore.tasks.sequence_classification import MeanOfClasses
from dlcore.train import Recipe, Session, preparation

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 2, 40)
LOGITS = RNG.normal(size=(40, 2)) + 0.7 * np.eye(2)[LABELS]
MASK = np.array([1.0] * 33 + [0.0] * 7, np.float32)
TASK = tasks.create("sequence_classification", models.create("lstm_classifier", hidden=4))


def computed(logits, labels, mask):
    batch = {"label": jnp.asarray(labels, jnp.int32), "mask": jnp.asarray(mask)}
    return metrics.compute(TASK.metrics(jnp.asarray(logits, jnp.float32), batch))


def test_scores_are_those_of_scikit_learn_over_unmasked_examples():
    values = computed(LOGITS, LABELS, MASK)
    real, told = LABELS[MASK > 0], LOGITS.argmax(1)[MASK > 0]
    for name, score in {
        "accuracy": sklearn.metrics.accuracy_score,
        "balanced_accuracy": sklearn.metrics.balanced_accuracy_score,
        "precision": sklearn.metrics.precision_score,
        "recall": sklearn.metrics.recall_score,
    }.items():
        assert values[name] == pytest.approx(score(real, told), abs=1e-6), name


def test_a_class_without_examples_is_no_part_of_the_mean_and_a_score_of_nan_is_wrong():
    labels = np.array([0, 0, 2, 2])
    logits = np.eye(3)[[0, 1, 2, 2]]
    values = computed(logits, labels, np.ones(4, np.float32))
    assert values["balanced_accuracy"] == pytest.approx((0.5 + 1) / 2)
    assert "precision" not in values
    logits[3] = np.nan
    assert computed(logits, labels, np.ones(4))["balanced_accuracy"] == pytest.approx(0.5)


def test_a_mean_of_classes_merges_by_class():
    parts = [
        MeanOfClasses.of(
            jnp.asarray(values), jnp.asarray(labels), jnp.ones(len(values)), num_classes=2
        )
        for values, labels in (([1.0, 0.0, 1.0], [0, 0, 0]), ([1.0], [1]))
    ]
    assert parts[0].merge(parts[1]).compute() == pytest.approx((2 / 3 + 1) / 2)
    assert np.isnan(parts[0].replace(counts=np.zeros(2)).compute())


def test_what_is_equally_long_in_all_examples_has_that_length():
    batch = {"sequence": jnp.zeros((3, 5, 2))}
    sequence, lengths = TASK.describe_inputs(batch)
    assert sequence.shape == (3, 5, 2)
    np.testing.assert_array_equal(lengths, [5, 5, 5])
    lengths = TASK.describe_inputs({**batch, "sequence_length": jnp.array([1, 0, 5])})[1]
    np.testing.assert_array_equal(lengths, [1, 0, 5])


def test_models_and_tasks_that_do_not_fit_are_told_apart_before_any_work():
    dataset = data.load("digits")
    recipe = Recipe(name="r", model="lstm_classifier", data="digits", learning_rate=0.1)
    with pytest.raises(UsageError, match=r"it has 2 input\(s\) and 1 output\(s\), where 1 and 1"):
        preparation.prepare(recipe)
    described = {"image": Series((64,)), "label": ClassLabel(tuple("0123456789"))}
    flat = {"image": dataset.example_batch(40)["image"].reshape(40, 64).astype(np.float32)}
    arrays = {**flat, "label": np.arange(40) % 10}
    series = data.from_arrays(described, {"train": arrays}, name="series")
    other = Recipe(
        name="r", task="sequence_classification", model="mlp", data="series", learning_rate=0.1
    )
    needs = tasks.kind("sequence_classification").needs
    with pytest.raises(UsageError, match=r"it has 1 input\(s\) and 1 output\(s\), where 2 and 1"):
        preparation.prepare(other, opened=lambda: series.provide(needs))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("bag_of_words", {}),
        ("kim_cnn", {"embedding_size": 16, "maps": 8, "dropout_rate": 0.0}),
        ("lstm_classifier", {"embedding_size": 16, "hidden": 16}),
    ],
)
def test_twenty_texts_are_learned_by_heart(model, options, tmp_path):
    words = [f"word{number}" for number in range(30)]
    for name in ("dull", "fine"):
        folder = tmp_path / "texts" / name
        folder.mkdir(parents=True)
        for number in range(16):
            text = " ".join(RNG.choice(words, RNG.integers(3, 9)))
            (folder / f"{number}.txt").write_text(text)
    recipe = Recipe(
        name="by_heart",
        task="sequence_classification",
        model=model,
        model_options=options,
        data=str(tmp_path / "texts"),
        optimizer="adam",
        learning_rate=0.02,
        overfit=20,
    )
    summary = Session(recipe).run(tmp_path / "run")
    assert "loss" in summary["reason"], summary["reason"]
