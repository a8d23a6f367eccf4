"""Groups of parameters against updates written out by hand in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlcore.errors import UsageError
from dlcore.optim import builder, groups, pruning, rate
from dlcore.optim.builder import Options

STEPS, SEED = 3, 3
SHAPES = {
    "trunk": {"conv1": {"kernel": (2, 3), "bias": (3,)}, "conv2": {"kernel": (3, 2)}},
    "head": {"kernel": (2, 2), "bias": (2,)},
}
PATHS = ["head/bias", "head/kernel", "trunk/conv1/bias", "trunk/conv1/kernel", "trunk/conv2/kernel"]


def drawn(shapes, generator):
    if isinstance(shapes, tuple):
        return generator.normal(size=shapes)
    return {name: drawn(inner, generator) for name, inner in shapes.items()}


PARAMS = drawn(SHAPES, np.random.default_rng(0))


def by_path(tree):
    return {
        "/".join(entry.key for entry in path): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def slope(weights):
    return 0.3 * weights + 0.2


def falling(step):
    return 0.1 / (1 + step)


def trajectory(optimizer, params=PARAMS, steps=STEPS, gradients=slope, compiled=False):
    """The parameters by path after each step."""

    def step(params, state):
        updates, state = optimizer.update(jax.tree.map(gradients, params), state, params)
        return optax.apply_updates(params, updates), state

    step = jax.jit(step) if compiled else step
    state, passed = optimizer.init(params), []
    for _ in range(steps):
        params, state = step(params, state)
        passed.append(by_path(params))
    return passed


def assert_close(one, two, **tolerance):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), one, two)


def assert_same_bits(one, two):
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b), one, two)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.signbit(a), np.signbit(b)), one, two)


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


def two_groups():
    return builder.build(
        "momentum",
        falling,
        Options(momentum=0.8, weight_decay=0.05, clip_norm=0.5),
        groups="head/.*:optimizer=sgd,rate=10,weight_decay=0.2 .*/bias:rate=0.5",
    )


def two_groups_by_hand():
    weights, velocity = by_path(PARAMS), dict.fromkeys(PATHS, 0.0)
    for t in range(STEPS):
        gradient = {path: slope(w) for path, w in weights.items()}
        norm = np.sqrt(sum((g**2).sum() for g in gradient.values()))
        assert norm > 0.5
        gradient = {path: g * 0.5 / norm for path, g in gradient.items()}
        for path in ("trunk/conv1/kernel", "trunk/conv2/kernel"):
            gradient[path] = gradient[path] + 0.05 * weights[path]
        for path in PATHS[2:]:
            velocity[path] = 0.8 * velocity[path] + gradient[path]
        weights = {
            "head/bias": weights["head/bias"] - 10 * falling(t) * gradient["head/bias"],
            "head/kernel": weights["head/kernel"]
            - 10 * falling(t) * (gradient["head/kernel"] + 0.2 * weights["head/kernel"]),
            "trunk/conv1/bias": weights["trunk/conv1/bias"]
            - 0.5 * falling(t) * velocity["trunk/conv1/bias"],
            "trunk/conv1/kernel": weights["trunk/conv1/kernel"]
            - falling(t) * velocity["trunk/conv1/kernel"],
            "trunk/conv2/kernel": weights["trunk/conv2/kernel"]
            - falling(t) * velocity["trunk/conv2/kernel"],
        }
        yield weights


def test_each_group_follows_its_own_rule_rate_and_decay_and_all_are_clipped_together():
    assert_close(trajectory(two_groups()), list(two_groups_by_hand()), rtol=1e-10)


def test_compiled_they_do_the_same():
    assert_close(trajectory(two_groups(), compiled=True), list(two_groups_by_hand()), rtol=1e-10)


def test_rates_go_layer_by_layer():
    factors = {"trunk/conv1": 0.25, "trunk/conv2": 0.5}
    listed = " ".join(f"{layer}/.*:rate={factor}" for layer, factor in factors.items())
    weights = by_path(PARAMS)
    for t, params in enumerate(trajectory(builder.build("sgd", falling, groups=listed))):
        for path, w in weights.items():
            factor = factors.get(path.rpartition("/")[0], 1)
            weights[path] = w - factor * falling(t) * slope(w)
        assert_close(params, weights, rtol=1e-10)


@pytest.mark.parametrize("name", builder.NAMES)
def test_a_group_with_an_optimizer_of_its_own_moves_as_if_it_were_alone(name):
    options = Options(momentum=0.7, weight_decay=0.1, l1=0.05, epsilon=1e-3)
    grouped = builder.build("sgd", falling, options, groups=f"trunk/conv1/.*:optimizer={name}")
    alone = builder.build(name, falling, options)
    part = {"trunk": {"conv1": PARAMS["trunk"]["conv1"]}}
    rest = {"trunk": {"conv2": PARAMS["trunk"]["conv2"]}, "head": PARAMS["head"]}
    expected = [
        one | others
        for one, others in zip(
            trajectory(alone, part, 2),
            trajectory(builder.build("sgd", falling, options), rest, 2),
            strict=True,
        )
    ]
    assert_close(trajectory(grouped, steps=2), expected, rtol=1e-10)


def frozen_trunk(**options):
    return builder.build(
        "momentum", falling, Options(**options), SEED, "trunk/conv1/.*:frozen head/bias:rate=2"
    )


@pytest.mark.parametrize("compiled", [False, True])
def test_a_frozen_parameter_keeps_every_bit_whatever_is_added_to_a_gradient(compiled):
    params = jax.tree.map(np.copy, PARAMS)
    params["trunk"]["conv1"]["kernel"][0] = [-0.0, 0.0, -1e-300]
    options = {"weight_decay": 0.1, "l1": 0.1, "gradient_noise": 1.0, "clip_norm": 1.0}
    optimizer = optax.chain(
        frozen_trunk(**options), pruning.prune_by_magnitude(0.5, 1, "trunk/conv1/.*:frozen")
    )
    before = by_path(params)
    for after in trajectory(optimizer, params, 2, compiled=compiled):
        for path in PATHS:
            if path.startswith("trunk/conv1"):
                assert_same_bits(after[path], before[path])
            else:
                assert (after[path] != before[path]).any()


def test_a_frozen_parameter_has_no_velocity():
    state = frozen_trunk().init(PARAMS)
    sizes = [leaf.size for leaf in jax.tree.leaves(state) if leaf.size > 1]
    assert sum(sizes) == sum(by_path(PARAMS)[path].size for path in (*PATHS[:2], PATHS[4]))


@pytest.mark.parametrize("clipping", [{"clip_norm": 0.5}, {"clip_average_factor": 0.5}])
@pytest.mark.parametrize("bad", [1e6, np.nan])
def test_the_gradient_of_a_frozen_parameter_does_not_count_in_clipping(clipping, bad):
    optimizer = frozen_trunk(**clipping)
    state, moves = optimizer.init(PARAMS), []
    for size in (0.0, bad):
        gradients = jax.tree.map(slope, PARAMS)
        gradients["trunk"]["conv1"] = jax.tree.map(
            lambda leaf, size=size: np.full_like(leaf, size), gradients["trunk"]["conv1"]
        )
        # Twice from the same state, so that an average norm has a past.
        _, past = optimizer.update(gradients, state, PARAMS)
        moves.append(optimizer.update(gradients, past, PARAMS)[0])
    assert_same_bits(*moves)
    assert all(np.isfinite(leaf).all() for leaf in by_path(moves[1]).values())


def test_without_groups_it_is_the_chain_that_it_always_was():
    options = Options(weight_decay=0.1, gradient_noise=0.1, clip_average_factor=1.0)
    state = builder.build("adam", falling, options, groups=" ").init(PARAMS)
    clipping, (_, adam), decoupled_decay, learning_rate, velocity_of_steps = state
    assert [type(part).__name__ for part in (clipping, adam, learning_rate)] == [
        "AverageNormState",
        "ScaleByAdamState",
        "RateState",
    ]
    assert not jax.tree.leaves((decoupled_decay, velocity_of_steps))


@pytest.mark.parametrize("listed", [".*", "trunk/.*:rate=1 head/kernel"])
def test_groups_that_set_nothing_change_nothing(listed):
    options = Options(weight_decay=0.1, l1=0.01, clip_norm=0.5)
    grouped = builder.build("adam", falling, options, groups=listed)
    assert_close(
        trajectory(grouped, steps=2), trajectory(builder.build("adam", falling, options), steps=2)
    )


def test_the_first_group_that_matches_a_whole_path_counts():
    listed = "kernel:rate=2 head/kernel:rate=3 .*/kernel:rate=5"
    moves = trajectory(builder.build("sgd", lambda step: 1.0, groups=listed), steps=1)[0]
    factors = {
        path: ((by_path(PARAMS)[path] - moves[path]) / slope(by_path(PARAMS)[path])).mean()
        for path in PATHS
    }
    assert factors == pytest.approx(dict(zip(PATHS, (1, 3, 1, 5, 5), strict=True)))


def test_no_two_groups_draw_the_same_noise():
    zeros = {name: jnp.zeros((1000,)) for name in "abcd"}
    optimizer = builder.build(
        "sgd", lambda step: 1.0, Options(gradient_noise=1.0), SEED, "a b:rate=2 c"
    )
    first, second = trajectory(optimizer, zeros, 2, jnp.zeros_like)
    samples = [first[name] for name in "abcd"] + [second[name] - first[name] for name in "abcd"]
    assert abs(np.corrcoef(samples) - np.eye(8)).max() < 0.15
    assert [float(sample.std()) for sample in samples[:4]] == pytest.approx([1, 2, 1, 1], rel=0.1)


def test_a_group_may_have_noise_and_decoupled_decay_of_its_own():
    ones = {"a": jnp.ones((1, 4000)), "b": jnp.ones((1, 4000))}
    listed = "b:gradient_noise=0.5,gradient_noise_decay=0,weight_decay=0.5,decoupled_weight_decay"
    (moved,) = trajectory(
        builder.build("adam", lambda step: 0.1, Options(), SEED, listed), ones, 1, jnp.zeros_like
    )
    assert_same_bits(moved["a"], np.ones((1, 4000)))
    # Adam's first step is 0.1 either way; the decay beside it takes a twentieth.
    assert sorted(set(np.round(moved["b"].ravel(), 4))) == [0.85, 1.05]


def test_the_rate_on_record_is_the_recipes_and_a_plateau_lowers_all_groups():
    optimizer = builder.build(
        "sgd", lambda step: 0.1, groups="head/.*:rate=10 trunk/conv1/.*:frozen"
    )
    state = optimizer.init(PARAMS)
    assert float(rate.learning_rate(state, lambda step: 0.1)) == pytest.approx(0.1)
    lowered = rate.rescale(state, 0.5)
    assert float(rate.learning_rate(lowered, lambda step: 0.1)) == pytest.approx(0.05)
    gradients = jax.tree.map(slope, PARAMS)
    before, _ = optimizer.update(gradients, state, PARAMS)
    after, _ = optimizer.update(gradients, lowered, PARAMS)
    assert_close(after, jax.tree.map(lambda move: 0.5 * move, before), rtol=1e-12)
    carried, _ = optimizer.update(gradients, rate.with_factor_of(state, lowered), PARAMS)
    assert_same_bits(carried, after)


def test_a_player_may_be_updated_alone_under_its_full_paths():
    players = {"generator": PARAMS["trunk"], "discriminator": PARAMS["head"]}
    optimizer = builder.build(
        "adam",
        falling,
        Options(weight_decay=0.1),
        groups="generator/.*:rate=3 .*/bias:optimizer=sgd",
    )
    together = trajectory(optimizer, players, 2)
    apart = [trajectory(optimizer, {name: players[name]}, 2) for name in players]
    assert_close(together, [one | two for one, two in zip(*apart, strict=True)], rtol=1e-12)


def test_pruning_leaves_frozen_weights_out_of_its_count():
    listed = "trunk/conv1/.*:frozen"
    optimizer = optax.chain(
        builder.build("sgd", falling, groups=listed), pruning.prune_by_magnitude(0.5, 0, listed)
    )
    (after,) = trajectory(optimizer, steps=1)
    kept = [np.abs(by_path(PARAMS)[path]).ravel() for path in ("head/kernel", "trunk/conv2/kernel")]
    threshold = np.median(np.concatenate(kept))
    assert_same_bits(after["trunk/conv1/kernel"], PARAMS["trunk"]["conv1"]["kernel"])
    for path in ("head/kernel", "trunk/conv2/kernel"):
        np.testing.assert_array_equal(after[path] == 0, np.abs(by_path(PARAMS)[path]) < threshold)


def test_they_are_described_by_the_paths_of_their_parameters():
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, PARAMS))
    assert groups.describe(".*/conv1/.*:frozen .*bias:rate=2", shapes) == {
        ".*/conv1/.*": ("trunk/conv1/bias", "trunk/conv1/kernel"),
        ".*bias": ("head/bias",),
        groups.OTHERS: ("head/kernel", "trunk/conv2/kernel"),
    }
    assert groups.describe("", shapes) == {groups.OTHERS: tuple(PATHS)}
    assert groups.OTHERS not in groups.describe(".*", shapes)


def test_groups_that_match_pass_the_check():
    for listed in ("", "head/.*:rate=10 .*", "(?:trunk)/.*:frozen"):
        groups.check(listed, PARAMS)


@pytest.mark.parametrize(
    ("listed", "named"),
    [
        ("hed/kernel:rate=2", "groups=hed/kernel: it matches no parameter: .* head/kernel"),
        ("kernel:frozen", "groups=kernel: .*: it has to match a whole path, such as head/kernel"),
        ("Z:frozen", "groups=Z: .* such as head/bias, head/kernel, trunk/conv1/bias, \\.\\.\\."),
        ("head/.* head/bias:rate=2", r"groups=head/bias: an earlier .* matches \(head/bias\)"),
        ("head/.*:frozen .*:frozen", "every parameter is frozen: nothing is left to train"),
    ],
)
def test_groups_that_do_not_do_what_they_say_do_not_pass_the_check(listed, named):
    with pytest.raises(UsageError, match=named) as refused:
        groups.check(listed, PARAMS)
    assert "\n" not in str(refused.value)
    # Of one player's parameters alone, it may be right.
    builder.build("sgd", falling, groups=listed).init(PARAMS)


@pytest.mark.parametrize(
    ("listed", "named"),
    [
        ("head/(.*", r"groups=head/\(.\*: it is not a regular expression: missing \)"),
        ("a:rate=2 a:frozen", "groups=a: it is there twice"),
        ("a:frozen,rate=2", "groups=a: nothing changes a frozen group: write a:frozen alone"),
        ("a:frozen=false", "groups=a: nothing changes a frozen group"),
        ("a:rate=0", "groups=a:rate=0: it multiplies the learning rate and must be .* above 0"),
        ("a:rate=-1.5", "groups=a:rate=-1.5: it "),
        ("a:rate=nan", "groups=a:rate=nan: it "),
        ("a:rate", "groups=a:rate=True: it "),
        ("a:rate=fast", "groups=a:rate=fast: it "),
        ("a:optimizer=adamw", "groups=a:optimizer=adamw: it is one of sgd, momentum, "),
        ("a:clip_norm=1", "groups=a:clip_norm=1: all groups are clipped together: .* clip_norm"),
        ("a:clip_average_factor=1", "groups=a:clip_average_factor=1: all groups"),
        ("a:decay=1", "groups=a:decay=1: .* no such setting: it has frozen, rate, .*weight_decay"),
        ("a:momentum=1", "groups=a:momentum=1: it must be at least 0 and below 1"),
        ("a:weight_decay=true", "groups=a:weight_decay=True: it must be a number"),
        ("a:l1=much", "groups=a:l1=much: it must be a number"),
        ("a:decoupled_weight_decay=1", "groups=a:decoupled_weight_decay=1: .* true or false"),
        (
            "a:optimizer=heavy_ball,decoupled_weight_decay",
            "groups=a:decoupled_weight_decay=true would .* velocity of heavy_ball",
        ),
        ("a:x y:", "groups=a:x y:: '' in 'y:' is not a setting"),
    ],
)
def test_a_group_that_is_not_well_formed_is_refused_by_name(listed, named):
    with pytest.raises(UsageError, match=f"^{named}") as refused:
        builder.build("sgd", falling, groups=listed)
    assert "\n" not in str(refused.value)
