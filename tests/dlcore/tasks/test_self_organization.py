"""The rule of the cognitron and the neocognitron against loops in NumPy, and its laws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dlcore import metrics, models, parallel, tasks
from dlcore.errors import UsageError
from dlcore.nn import backbone
from dlcore.train import Session
from tests import small

SMALL = {
    "cognitron": {"num_classes": 3, "kinds": (3, 2), "size": 3, "vicinity": 3},
    "neocognitron": {
        "num_classes": 3,
        "planes": (4, 3),
        "windows": (3, 3),
        "size": 3,
        "column": 3,
    },
}
NAMES = list(SMALL)


@functools.cache
def start(name, layer=1, rate=2.0, **options):
    """A task, its first parameters and a compiled update of them."""
    model = models.create(name, **{**SMALL[name], **options})
    task = tasks.create("self_organization", model, layer=layer)
    optimizer = optax.sgd(rate)
    params = small.init(task, {"image": jnp.zeros((1, 8, 8, 1))})["params"]

    @jax.jit
    def update(params, batch):
        state = small.state(params, task.init_optimizer(optimizer, params))
        state, sums = task.update(state, batch, jax.random.key(0), optimizer)
        return state.params, sums

    return task, params, update


@functools.cache
def look(model):
    """What a network's layers see and answer, by name; compiled."""
    return jax.jit(lambda params, pixels: backbone.collect(model, {"params": params}, pixels)[1])


def images(count=6, seed=0):
    """Sparse strokes, as the networks are made for."""
    rng = np.random.default_rng(seed)
    pixels = rng.uniform(size=(count, 8, 8, 1)) * (rng.uniform(size=(count, 8, 8, 1)) < 0.3)
    return pixels.astype(np.float32)


def make_batch(pixels, mask=None):
    mask = np.ones(len(pixels)) if mask is None else np.asarray(mask)
    return {"image": jnp.asarray(pixels), "mask": jnp.asarray(mask, jnp.float32)}


# The papers' equations, cell by cell.


def field(u, row, col, size):
    """What a cell sees, `[size, size, planes]`: zeros beyond the edge."""
    seen = np.zeros((size, size, u.shape[2]))
    for i in range(size):
        for j in range(size):
            y, x = row + i - (size - 1) // 2, col + j - (size - 1) // 2
            if 0 <= y < u.shape[0] and 0 <= x < u.shape[1]:
                seen[i, j] = u[y, x]
    return seen


def weights_c(size, planes):
    away = np.arange(size) - (size - 1) / 2
    c = np.exp(-(away[:, None] ** 2 + away**2) / (2 * (size / 4) ** 2))
    return np.repeat((c / c.sum() / planes)[..., None], planes, -1)


def answer(seen, a, b, r):
    v = np.sqrt((weights_c(seen.shape[0], seen.shape[2]) * seen**2).sum())
    return r * max((1 + (a * seen).sum()) / (1 + r / (1 + r) * b * v) - 1, 0)


def layer_by_hand(u, own, r, shared):
    """What S-cells answer, `[height, width, kinds]`."""
    a, b = own["excitatory"], own["inhibitory"]
    height, width = u.shape[:2]
    out = np.zeros((height, width, a.shape[-1]))
    for row, col, k in np.ndindex(out.shape):
        a_k = a[..., k] if shared else a[row, col, ..., k]
        b_k = b[k] if shared else b[row, col, k]
        out[row, col, k] = answer(field(u, row, col, a_k.shape[0]), a_k, b_k, r)
    return out


def seeds_by_hand(answers, column):
    """Each column's strongest cell is a candidate, each plane's strongest candidate its seed."""
    height, width, planes = answers.shape
    reach, candidates = column // 2, set()
    for row, col in np.ndindex(height, width):
        top, left = max(row - reach, 0), max(col - reach, 0)
        area = answers[top : row + reach + 1, left : col + reach + 1]
        if area.max() > 0:
            y, x, k = np.unravel_index(area.argmax(), area.shape)
            candidates.add((y + top, x + left, k))
    seeds = []
    for plane in range(planes):
        own = [place for place in candidates if place[2] == plane]
        seeds += [max(own, key=lambda place: answers[place])] if own else []
    return seeds


def winners_by_hand(answers, vicinity):
    reach = vicinity // 2
    return [
        (row, col, k)
        for row, col, k in np.ndindex(answers.shape)
        if answers[row, col, k] > 0
        and answers[row, col, k]
        == answers[
            max(row - reach, 0) : row + reach + 1, max(col - reach, 0) : col + reach + 1
        ].max()
    ]


def learned_by_hand(pictures, own, r, rate, choose, shared):
    """A layer's weights after it has seen pictures one by one, and how many cells were chosen."""
    own, count = {name: np.float64(array) for name, array in own.items()}, 0
    for u in np.float64(pictures):
        places = choose(layer_by_hand(u, own, r, shared))
        count += len(places)
        for row, col, k in places:
            size = own["excitatory"].shape[-4]
            seen = field(u, row, col, size)
            c = weights_c(size, u.shape[2])
            at = (k,) if shared else (row, col, k)
            own["excitatory"][(*at[:-1], ..., k)] += rate * c * seen
            own["inhibitory"][at] += rate * np.sqrt((c * seen**2).sum())
    return own, count


@pytest.mark.parametrize("name", NAMES)
def test_the_first_layer_learns_by_the_papers_equations(name):
    task, params, update = start(name)
    pixels = images(4)
    after, sums = update(params, make_batch(pixels))
    shared = name == "neocognitron"
    by_hand = seeds_by_hand if shared else winners_by_hand
    r = task.model.selectivity[0]
    own, count = learned_by_hand(
        pixels, params["layer1"], r, 2.0, lambda answers: by_hand(answers, 3), shared
    )
    assert float(sums["loss"].count) == count > 8
    for kind, array in own.items():
        np.testing.assert_allclose(after["layer1"][kind], array, rtol=1e-5, atol=1e-6)
    for other in ("layer2", "class_logits"):
        jax.tree.map(np.testing.assert_array_equal, after[other], params[other])


@pytest.mark.parametrize("name", NAMES)
def test_the_second_layer_learns_from_what_the_first_one_hands_on(name):
    task, params, _ = start(name)
    trained, _ = start(name)[2](params, make_batch(images(6)))
    pixels = images(2, seed=1)
    after, sums = start(name, layer=2)[2](trained, make_batch(pixels))
    shared = name == "neocognitron"
    r = task.model.selectivity
    first = [layer_by_hand(np.float64(u), trained["layer1"], r[0], shared) for u in pixels]
    if shared:
        first = [complex_by_hand(u, 3, 2) for u in first]
    seen = look(task.model)(trained, jnp.asarray(pixels))["input2"]
    np.testing.assert_allclose(seen, first, rtol=1e-4, atol=1e-6)
    own, count = learned_by_hand(
        # What the layer sees itself: rounding decides whether an answer is nothing or next to it.
        seen,
        trained["layer2"],
        r[1],
        2.0,
        lambda answers: (seeds_by_hand if shared else winners_by_hand)(answers, 3),
        shared,
    )
    assert float(sums["loss"].count) == count > 0
    for kind, array in own.items():
        np.testing.assert_allclose(after["layer2"][kind], array, rtol=1e-4, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, after["layer1"], trained["layer1"])


def complex_by_hand(u, window, stride):
    """C-cells: Gaussian pooling, inhibition by the planes' mean, saturation with alpha 1/2."""
    d = weights_c(window, 1)[..., 0]
    height, width = -(-u.shape[0] // stride), -(-u.shape[1] // stride)
    out = np.zeros((height, width, u.shape[2]))
    before = (window - stride) // 2
    for row, col in np.ndindex(height, width):
        pooled = np.zeros(u.shape[2])
        for i, j in np.ndindex(window, window):
            y, x = row * stride + i - before, col * stride + j - before
            if 0 <= y < u.shape[0] and 0 <= x < u.shape[1]:
                pooled += d[i, j] * u[y, x]
        x = np.maximum((1 + pooled) / (1 + pooled.mean()) - 1, 0)
        out[row, col] = x / (0.5 + x)
    return out


# Laws.


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), name=st.sampled_from(NAMES))
def test_weights_only_grow_and_stay_above_zero(seed, name):
    _, params, update = start(name)
    # Also where images have what is below 0.
    pixels = np.random.default_rng(seed).normal(size=(4, 8, 8, 1)).astype(np.float32)
    after, _ = update(params, make_batch(pixels))
    for kind, array in after["layer1"].items():
        assert (np.asarray(array) >= np.asarray(params["layer1"][kind])).all()
        assert np.asarray(array).min() >= 0


@settings(max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_a_plane_has_one_seed_at_most_and_it_is_the_strongest_of_some_column(seed):
    task, _, _ = start("neocognitron")
    rng = np.random.default_rng(seed)
    answers = rng.uniform(size=(6, 7, 4)) * (rng.uniform(size=(6, 7, 4)) < 0.2)
    answers = answers.astype(np.float32)
    chosen = np.asarray(task.model.choose(jnp.asarray(answers)))
    assert set(np.unique(chosen)) <= {0, 1}
    assert chosen.sum((0, 1)).max() <= 1
    assert {tuple(place) for place in np.argwhere(chosen)} == set(seeds_by_hand(answers, 3))


@pytest.mark.parametrize("name", NAMES)
def test_a_pattern_that_was_learned_long_enough_is_answered_with_one(name):
    task, params, update = start(name, rate=1e5)
    pixels = images(1)
    for _ in range(3):
        params, sums = update(params, make_batch(pixels))
    before = metrics.compute(sums)
    assert before["reinforced"] >= 1
    values = metrics.compute(
        jax.jit(task.evaluate)({"params": params}, make_batch(pixels), jax.random.key(0))
    )
    assert 0 <= values["loss"] < 1e-3
    # No cell answers anything more strongly than the pattern that it has learned.
    stages = look(task.model)(params, jnp.asarray(images(20, seed=3)))
    answered = stages["input2" if name == "cognitron" else "stage1"]
    assert 0.1 < np.asarray(answered).max() < 1 + 1e-3


def test_the_cell_that_has_learned_a_pattern_answers_it_most():
    task, params, update = start("neocognitron", rate=1e5, planes=(1, 3))
    pattern = np.zeros((8, 8, 1), np.float32)
    pattern[3:6, 4] = 1
    params, _ = update(params, make_batch(pattern[None]))
    others = np.concatenate([pattern[None], np.rot90(pattern)[None], images(30)])
    stages = look(task.model)(params, jnp.asarray(others))
    strongest = np.asarray(stages["stage1"][..., 0]).max((1, 2))
    assert strongest[0] == pytest.approx(1, abs=1e-3)
    # A bar that lies is told from one that stands.
    assert strongest[1] < 0.5
    assert (strongest[1:] <= strongest[0] + 1e-4).all()


def test_another_pattern_is_answered_by_its_cosine_with_the_learned_one():
    r = 2.0
    task, fresh, update = start("neocognitron", rate=1e6, planes=(1, 3))
    one = np.zeros((8, 8, 1), np.float32)
    one[3:6, 4] = 1
    other = one * np.float32(0.7)
    other[4, 4] = 0.3
    look_at = look(task.model)
    chosen = task.model.choose(look_at(fresh, jnp.asarray(one[None]))["stage1"][0])
    (row, col, plane) = np.argwhere(chosen)[0]
    params, _ = update(fresh, make_batch(one[None]))
    c = weights_c(3, 1)
    learned, shown = (field(u, row, col, 3) for u in (one, other))
    norms = np.sqrt((c * learned**2).sum() * (c * shown**2).sum())
    cosine = (c * learned * shown).sum() / norms
    expected = (1 + r) * cosine - r
    assert 0.1 < expected < 0.95
    found = look_at(params, jnp.asarray(other[None]))["stage1"][0, row, col, plane]
    assert float(found) == pytest.approx(expected, abs=1e-3)


# Masks, layouts, complaints.


@pytest.mark.parametrize("name", NAMES)
def test_masked_images_teach_nothing_even_where_they_are_not_numbers(name):
    _, params, update = start(name)
    pixels = images(3)
    spoiled = pixels.copy()
    spoiled[1] = np.nan
    masked, sums = update(params, make_batch(spoiled, [1, 0, 1]))
    kept, only = update(params, make_batch(pixels[[0, 2]]))
    jax.tree.map(np.testing.assert_array_equal, masked, kept)
    assert metrics.compute(sums) == pytest.approx(metrics.compute(only))


def test_one_image_after_another_learns_as_one_batch_does():
    _, params, update = start("neocognitron")
    together, _ = update(params, make_batch(images(3)))
    for pixels in images(3):
        params, _ = update(params, make_batch(pixels[None]))
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7), params, together
    )


def test_only_one_device_is_supported():
    supported = tasks.kind("self_organization").parallelisms
    for name in ("pmap", "data", "fsdp"):
        with pytest.raises(UsageError, match=f"^parallelism={name} cannot .* use jit$"):
            parallel.make(name, supported)


def test_a_layer_that_there_is_not_is_refused():
    model = models.create("cognitron", **SMALL["cognitron"])
    with pytest.raises(UsageError, match="^layer=0: it must be at least 1"):
        tasks.create("self_organization", model, layer=0)
    task = tasks.create("self_organization", model, layer=3)
    with pytest.raises(UsageError, match="^layer=3: the network has the layers 1 to 2$"):
        task.init(jax.random.key(0), {"image": jnp.zeros((1, 8, 8, 1))})


def test_a_network_without_such_cells_is_refused():
    recipe = small.recipe(task="self_organization", optimizer="sgd", evaluators="")
    with pytest.raises(UsageError, match="task=self_organization: it has no choose, simple_cells"):
        Session(recipe).check()
