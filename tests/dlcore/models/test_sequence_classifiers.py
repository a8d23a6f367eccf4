"""Classifiers of sequences: what they compute, and that padding is no part of it."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from dlcore import models
from dlcore.errors import UsageError
from dlcore.models.bag_of_words import bag
from dlcore.models.kim_cnn import Windows

WORDS, LENGTHS = 11, np.array([5, 0, 3, 7, 1], np.int32)
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(0, WORDS, (len(LENGTHS), 7)).astype(np.int32)
SMALL = {
    "bag_of_words": {"hidden": (4,)},
    "kim_cnn": {"embedding_size": 6, "maps": 5},
    "lstm_classifier": {"embedding_size": 6, "hidden": 5},
}
VARIANTS = {
    **{name: (name, options) for name, options in SMALL.items()},
    **{
        f"LSTM, {pooling}": (
            "lstm_classifier",
            {**SMALL["lstm_classifier"], "bidirectional": True, "pooling": pooling},
        )
        for pooling in ("last", "mean", "max")
    },
}


@functools.cache
def subject(variant):
    """A small model, and its variables."""
    name, options = VARIANTS[variant]
    model = models.create(name, num_classes=3, vocabulary_size=WORDS, **options)
    return model, jax.jit(model.init)(jax.random.key(0), TOKENS, LENGTHS)


def answers(model, variables, sequence, lengths=LENGTHS):
    return model.apply(variables, jnp.asarray(sequence), jnp.asarray(lengths))


@pytest.mark.parametrize("variant", VARIANTS)
def test_padding_changes_no_output_and_no_gradient_with_dropout_neither(variant):
    model, variables = subject(variant)
    model = model.clone(dropout_rate=0.5)

    @jax.jit
    def run(tokens, lengths):
        def loss(variables):
            rngs = {"dropout": jax.random.key(3)}
            outputs = model.apply(variables, tokens, lengths, train=True, rngs=rngs)
            return jnp.square(outputs).sum(), outputs

        return jax.value_and_grad(loss, has_aux=True)(variables)

    (_, outputs), gradients = run(TOKENS, LENGTHS)
    strange = RNG.integers(0, WORDS, (len(LENGTHS), 9)).astype(np.int32)
    real = np.arange(9) < LENGTHS[:, None]
    strange[real] = TOKENS[np.arange(7) < LENGTHS[:, None]]
    (_, longer), others = run(strange, LENGTHS)
    np.testing.assert_allclose(outputs, longer, rtol=1e-5, atol=1e-6)
    jax.tree.map(
        lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5),
        gradients,
        others,
    )


def test_a_bag_holds_each_word_as_often_as_the_text_does():
    counts = np.zeros((len(LENGTHS), WORDS))
    for text, length in enumerate(LENGTHS):
        np.add.at(counts[text], TOKENS[text, :length], 1)
    tokens, lengths = jnp.asarray(TOKENS), jnp.asarray(LENGTHS)
    np.testing.assert_array_equal(bag(tokens, lengths, WORDS, "count"), counts)
    np.testing.assert_array_equal(bag(tokens, lengths, WORDS, "binary"), counts > 0)
    np.testing.assert_allclose(
        bag(tokens, lengths, WORDS, "frequency"),
        counts / np.maximum(LENGTHS, 1)[:, None],
        rtol=1e-6,
    )
    with pytest.raises(UsageError, match="unknown weights 'tfidf': they are one of binary, count"):
        bag(tokens, lengths, WORDS, "tfidf")


def test_the_order_of_words_is_nothing_to_a_bag_and_something_to_the_others():
    for name in SMALL:
        model, variables = subject(name)
        backwards = TOKENS.copy()
        backwards[3] = TOKENS[3, ::-1]
        one, other = (answers(model, variables, tokens)[3] for tokens in (TOKENS, backwards))
        assert np.allclose(one, other, atol=1e-6) == (name == "bag_of_words")


def test_windows_are_what_a_convolution_with_all_paddings_gives():
    x = jnp.asarray(RNG.normal(size=(2, 7, 4)), jnp.float32)
    windows = Windows(5, 3)
    reference = nn.Conv(5, (3,), padding=((2, 2),))
    variables = jax.jit(reference.init)(jax.random.key(0), x)
    own = jax.eval_shape(windows.init, jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, own) == jax.tree.map(jnp.shape, variables)
    expected = reference.apply(variables, x)
    np.testing.assert_allclose(windows.apply(variables, x), expected, atol=1e-5)


def test_kims_network_is_its_equations_written_out_in_float64():
    model, variables = subject("kim_cnn")
    params = jax.tree.map(np.float64, flatten_dict(variables["params"], sep="/"))
    together = answers(model, variables, TOKENS)
    for row, length, logits in zip(TOKENS, LENGTHS, together, strict=True):
        largest = []
        for width in (3, 4, 5):
            words = params["embedding/embedding"][row[:length]]
            padded = np.pad(words, ((width - 1, width - 1), (0, 0)))
            kernel, bias = params[f"width{width}/kernel"], params[f"width{width}/bias"]
            values = [
                np.maximum((padded[start : start + width, :, None] * kernel).sum((0, 1)) + bias, 0)
                for start in range(length + width - 1 if length else 0)
            ]
            largest.append(np.max(values, axis=0) if values else np.zeros(len(bias)))
        expected = np.concatenate(largest) @ params["logits/kernel"] + params["logits/bias"]
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_kims_parameters_are_as_many_as_the_paper_implies():
    # 100 maps of each of three widths over 300 numbers, and two classes.
    rest = 100 * (3 + 4 + 5) * 300 + 3 * 100 + 300 * 2 + 2
    assert rest == 360_902
    assert models.entry("kim_cnn").parameter_count == rest + 300 * 18_765


def test_an_lstm_says_what_it_remembers_behind_each_rows_last_step():
    model, variables = subject("lstm_classifier")
    logits = answers(model, variables, TOKENS)
    for row, length, together in zip(TOKENS, LENGTHS, logits, strict=True):
        alone = answers(model, variables, row[None, : max(length, 1)], [length])[0]
        np.testing.assert_allclose(alone, together, atol=1e-6)
    np.testing.assert_array_equal(logits[1], variables["params"]["logits"]["bias"])


def test_in_both_directions_each_has_read_the_whole_row():
    for pooling in ("last", "mean", "max"):
        model, variables = subject(f"LSTM, {pooling}")
        logits = answers(model, variables, TOKENS)
        for step in (0, 6):
            changed = TOKENS.copy()
            changed[3, step] = (changed[3, step] + 1) % WORDS
            assert not np.allclose(logits[3], answers(model, variables, changed)[3], atol=1e-7)


def test_an_lstm_reads_measurements_without_an_embedding():
    model = models.create("lstm_classifier", num_classes=3, hidden=5)
    series = RNG.normal(size=(len(LENGTHS), 7, 2, 2)).astype(np.float32)
    variables = jax.jit(model.init)(jax.random.key(0), series, LENGTHS)
    assert set(variables["params"]) == {"lstm", "logits"}
    assert variables["params"]["lstm"]["layer0"]["input_kernel"].shape == (4, 20)
    series[np.arange(7) >= LENGTHS[:, None]] = np.nan
    assert np.isfinite(answers(model, variables, series)).all()
    with pytest.raises(UsageError, match="the model reads tokens, .* and gets float32"):
        answers(models.create("bag_of_words"), {}, series)
    with pytest.raises(UsageError, match="unknown pooling 'sum': it is one of last, mean, max"):
        answers(model.clone(pooling="sum"), variables, series)
