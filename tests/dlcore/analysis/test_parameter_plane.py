"""Planes through parameter space against NumPy, and the loss on them against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dlcore.analysis.parameter_plane import losses, plane_through, random_plane
from dlcore.errors import UsageError

RNG = np.random.default_rng(0)
PARAMS = {
    "Conv": {"kernel": RNG.normal(size=(3, 3, 2, 4)) * 5, "bias": RNG.normal(size=4)},
    "Dense": {"kernel": RNG.normal(size=(7, 5)), "bias": RNG.normal(size=5)},
    "Norm": {"scale": np.ones(4)},
}
PARAMS = jax.tree.map(np.float32, PARAMS)


def flat(tree):
    return np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in jax.tree.leaves(tree)])


def grid(x, y):
    return np.stack(np.meshgrid(x, y), -1)


def test_every_filter_of_a_random_direction_is_as_long_as_the_model_s():
    plane = random_plane(PARAMS, np.random.default_rng(1))
    for direction in (plane.first, plane.second):
        for layer in ("Conv", "Dense"):
            own, filters = (np.asarray(tree[layer]["kernel"]) for tree in (direction, PARAMS))
            for unit in range(filters.shape[-1]):
                norm = np.linalg.norm(filters[..., unit])
                assert np.linalg.norm(own[..., unit]) == pytest.approx(norm, rel=1e-5)
            assert not np.allclose(own, filters)


def test_biases_and_normalization_stay_as_they_are():
    plane = random_plane(PARAMS, np.random.default_rng(1))
    moved = plane.at(0.7, -1.3)
    for layer, name in (("Conv", "bias"), ("Dense", "bias"), ("Norm", "scale")):
        np.testing.assert_array_equal(moved[layer][name], PARAMS[layer][name])


def test_two_random_directions_are_nearly_at_right_angles_and_follow_the_seed():
    big = {"kernel": np.ones((400, 50))}
    plane = random_plane(big, np.random.default_rng(0))
    first, second = flat(plane.first), flat(plane.second)
    # The cosine of two random directions in n dimensions has standard deviation 1/sqrt(n).
    assert abs(first @ second) / (first @ first) < 5 / np.sqrt(first.size)
    again, other = (flat(random_plane(big, np.random.default_rng(seed)).first) for seed in (0, 1))
    np.testing.assert_array_equal(again, first)
    assert not np.allclose(other, first)


def test_a_filter_of_zeros_stays_zero():
    plane = random_plane({"kernel": np.zeros((3, 2))}, np.random.default_rng(0))
    np.testing.assert_array_equal(plane.first["kernel"], np.zeros((3, 2)))


def test_models_that_compute_the_same_in_other_scales_have_the_same_landscape():
    # Li et al. (2018), section 4: ReLU layers, one 10 times larger and the next 10 times smaller.
    layers = [jnp.asarray(RNG.normal(size=shape)) for shape in ((4, 6), (6, 3))]
    scaled = [10 * layers[0], layers[1] / 10]
    batch = {"image": jnp.asarray(RNG.normal(size=(9, 4)))}

    def loss(params, batch):
        outputs = jax.nn.relu(batch["image"] @ params[0]) @ params[1]
        return (outputs**2).sum(), jnp.float32(9)

    positions = grid([-1.0, 0.0, 0.5], [-0.5, 1.0])
    plain, rescaled = (
        losses(loss, random_plane(params, np.random.default_rng(1)), positions, [batch])
        for params in (layers, scaled)
    )
    np.testing.assert_allclose(rescaled, plain, rtol=1e-4)
    assert plain.std() > 0.1


def test_three_points_lie_where_their_distances_put_them():
    points = [
        jax.tree.map(lambda leaf: leaf + RNG.normal(size=leaf.shape), PARAMS) for _ in range(3)
    ]
    plane, positions = plane_through(points)
    for i, point in enumerate(points):
        np.testing.assert_allclose(flat(plane.at(*positions[i])), flat(point), atol=1e-5)
        for j, other in enumerate(points):
            distance = np.linalg.norm(flat(point) - flat(other))
            assert np.linalg.norm(positions[i] - positions[j]) == pytest.approx(distance, rel=1e-6)
    np.testing.assert_array_equal(positions[0], [0, 0])
    assert positions[1, 1] == 0
    first, second = flat(plane.first), flat(plane.second)
    np.testing.assert_allclose(
        [first @ first, second @ second, first @ second], [1, 1, 0], atol=1e-5
    )


def test_points_that_span_no_plane_are_refused():
    point = {"kernel": jnp.arange(6.0).reshape(2, 3)}
    twice = jax.tree.map(lambda leaf: 2 * leaf, point)
    thrice = jax.tree.map(lambda leaf: 3 * leaf, point)
    for points in ([point, twice, thrice], [point, point, twice], [point, twice, point]):
        with pytest.raises(UsageError, match="lie on a line"):
            plane_through(points)
    for other in ({"kernel": jnp.zeros((3, 2))}, {"weights": jnp.zeros((2, 3))}):
        with pytest.raises(UsageError, match="must be parameters of the same model"):
            plane_through([point, twice, other])


def test_the_loss_is_the_mean_over_all_batches_at_every_position():
    traced = []

    def loss(params, batch):
        """Half the squared distance of the masked examples to the point."""
        traced.append(1)
        distances = ((batch["x"] - params["w"][0]) ** 2).sum(-1) / 2
        return (distances * batch["mask"]).sum(), batch["mask"].sum()

    examples = RNG.normal(size=(3, 4, 2)).astype(np.float32)
    masks = np.array([[1, 1, 1, 1], [1, 1, 1, 1], [1, 0, 0, 0]], np.float32)
    batches = [{"x": x, "mask": mask} for x, mask in zip(examples, masks, strict=True)]
    plane, positions = plane_through(
        [{"w": jnp.array([corner])} for corner in ([1.0, 1.0], [3.0, 1.0], [1.0, 2.0])]
    )
    np.testing.assert_array_equal(positions, [[0, 0], [2, 0], [0, 1]])
    # 15 positions: no multiple of the eight devices.
    x, y = np.linspace(-1, 1, 5), np.array([0.0, 0.5, 2.0])
    kept = examples.reshape(-1, 2)[masks.ravel() > 0].astype(np.float64)
    expected = [[((kept - [1 + a, 1 + b]) ** 2).sum(-1).mean() / 2 for a in x] for b in y]
    np.testing.assert_allclose(losses(loss, plane, grid(x, y), batches), expected, rtol=1e-5)
    assert len(traced) == 1


def test_the_positions_are_shared_out_among_all_devices():
    def device(params, batch):
        return jax.lax.axis_index("points").astype(jnp.float32), jnp.float32(1)

    plane = random_plane({"w": np.ones((1, 1))}, np.random.default_rng(0))
    assert jax.local_device_count() == 8
    values = losses(device, plane, np.zeros((24, 2)), [{}])
    np.testing.assert_array_equal(values, np.repeat(np.arange(8), 3))
