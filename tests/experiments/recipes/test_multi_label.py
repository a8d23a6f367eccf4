"""Several answers at once are learned, and scored, by the launcher's own parts."""

import dataclasses

import pytest

from dlcore.train import evaluation
from dlcore.train.preparation import prepare
from experiments import recipes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "scores"),
    [
        # The likeliest bits alone are right for 0.73 of the bits, and are the code of 9.
        ("segments_digits", {"accuracy": 0.9, "exact_match": 0.5}),
        ("multitask_digits", {"accuracy": 0.8, "tag_accuracy": 0.85, "tag_exact_match": 0.4}),
    ],
)
def test_four_epochs_of_the_digits_teach_codes_and_classes(name, scores):
    recipe = dataclasses.replace(recipes.get(name), num_epochs=4)
    prepared = prepare(recipe)
    program, dataset = prepared.program, prepared.dataset
    state = program.parallelism.place_state(program.initialize())
    batches = dataset.train_batches(recipe.batch_size, recipe.seed).start(0)
    for _ in range(prepared.plan.num_steps):
        state, _ = program.step(state, next(batches))
    validation = dataset.evaluation_batches("validation", recipe.batch_size)
    measured = evaluation.evaluate(program, state, validation)
    for metric, bound in scores.items():
        assert measured[metric] > bound
