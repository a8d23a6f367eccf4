"""What is set for a machine, and which implementation of its kernels a model calls there."""

import dataclasses

import jax
import pytest

from dlcore import models
from dlcore.data import text
from dlcore.errors import UsageError
from dlcore.evaluators.continuation import continue_text
from dlcore.train import Recipe, Run, Session, Settings
from dlcore.train.preparation import prepare
from kernels import dispatch, testing


@pytest.fixture
def recipe(tmp_path) -> Recipe:
    """A small language model on a small text."""
    (tmp_path / "text").mkdir()
    fox = "the quick brown fox jumps over the lazy dog.\n" * 20
    (tmp_path / "text" / "fox.txt").write_text(fox)
    return Recipe(
        name="fox",
        task="language_model",
        model="char_lstm",
        model_options={"hidden": 8, "layers": 1},
        data=str(tmp_path / "text"),
        data_options={"sequence_length": 8},
        learning_rate=0.1,
        batch_size=32,
        num_epochs=1,
        # A sample of a thousand characters takes minutes where kernels are interpreted.
        evaluators="-continuation",
    )


@pytest.mark.parametrize(
    ("named", "parallelism", "called"),
    [
        ("auto", "jit", "auto"),
        ("xla", "data", "xla"),
        # The compiler, which splits every operation there, can split no other.
        ("auto", "fsdp", "xla"),
    ],
)
def test_a_model_calls_the_kernels_that_are_named(recipe, named, parallelism, called, monkeypatch):
    asked, choose = set(), dispatch.choose

    def noting(operation, implementation, *facts, **options):
        asked.add(dispatch.requested(implementation))
        return choose(operation, implementation, *facts, **options)

    prepared = prepare(recipe, Settings(kernels=named, parallelism=parallelism))
    program = prepared.program
    monkeypatch.setattr(dispatch, "choose", noting)
    program.step.lower(program.abstract_state, program.batch)
    program.evaluate.lower(program.abstract_state, program.batch, 0)
    assert asked == {called}
    assert prepared.recipe.model_options.keys() == models.defaults("char_lstm").keys()


@pytest.mark.parametrize(
    ("named", "reason"),
    [("mosaic_gpu", "it needs a GPU, not cpu"), ("mosaic_tpu", "it needs a TPU, not cpu")],
)
def test_what_cannot_serve_here_is_refused_before_anything_is_written(
    recipe, tmp_path, named, reason
):
    told = f"^kernels={named}: lstm: {named} cannot serve: {reason}"
    with pytest.raises(UsageError, match=told):
        Session(recipe, Settings(kernels=named)).run(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_that_calls_no_kernel_takes_auto_only():
    digits = Recipe(name="digits", model="softmax_regression", data="digits", learning_rate=0.1)
    with pytest.raises(UsageError, match="^kernels=xla: model=softmax_regression calls no kernel"):
        prepare(digits, Settings(kernels="xla"))


@pytest.mark.slow
def test_a_run_by_pallas_kernels_is_complete_and_judged_without_them(recipe, tmp_path, monkeypatch):
    # Long rows take minutes where kernels are interpreted.
    monkeypatch.setattr(text, "_SCORED", 8)
    monkeypatch.setattr(text, "_CONTEXT", 4)
    with testing.interpreted("mosaic_tpu"):
        summary = Session(recipe, Settings(kernels="mosaic_tpu")).run(tmp_path / "run")
    found = Run(tmp_path / "run").evaluate("test")
    assert found["loss"] == pytest.approx(summary["test"]["loss"], abs=1e-3)
    trained = Run(tmp_path / "run", Settings(kernels="xla")).trained()
    assert len(continue_text(trained, jax.random.key(0), "the qu", 5, 0.8)) == len("the qu") + 5
    assert Session(recipe).run(tmp_path / "run") == summary


@pytest.mark.parametrize(
    ("field", "value", "right"),
    [
        ("kernels", "fast", "it is auto, xla, mosaic_gpu or mosaic_tpu"),
        ("on_nonfinite", "ignore", "it is stop or skip"),
        ("checkpoint_every", -1, "it must be at least 0"),
        ("step_timeout", -0.5, "it must be at least 1, or 0"),
        ("keep", 0, "it must be at least 1"),
    ],
)
def test_a_value_out_of_its_range_is_refused_by_its_field(field, value, right):
    with pytest.raises(UsageError, match=f"^{field}={value}: {right}"):
        Settings(**{field: value})


def test_a_compiler_that_splits_every_operation_takes_no_pallas_kernel():
    with pytest.raises(UsageError, match="^kernels=mosaic_tpu: under parallelism=fsdp"):
        Settings(kernels="mosaic_tpu", parallelism="fsdp")
    assert dataclasses.asdict(Settings(kernels="xla", parallelism="fsdp"))["kernels"] == "xla"
