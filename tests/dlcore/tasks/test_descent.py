"""Descent with several players, against updates written out in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dlcore.metrics import Mean
from dlcore.tasks import Aux, descend, init_players
from tests import small

RATE, MOMENTUM, COUNT, KEPT = 0.1, 0.9, 6, 4
RNG = np.random.default_rng(0)
BATCH = {
    "image": jnp.asarray(RNG.normal(size=(COUNT, 3)), jnp.float32),
    "mask": jnp.asarray(np.arange(COUNT) < KEPT, jnp.float32),
}
PARAMS = {
    "hunter": {"w": RNG.normal(size=3).astype(np.float32)},
    "prey": {"v": RNG.normal(size=3).astype(np.float32)},
    "field": {"scale": np.float32(0.5)},
}
OPTIMIZER = optax.sgd(RATE, momentum=MOMENTUM)
HUNTER, PREY = ("hunter",), ("prey", "field")


def distance(params, model_state, batch, key):
    """Half the square of what the hunter says of each example less what the prey makes of it."""
    gap = batch["image"] @ params["hunter"]["w"]
    gap = gap - params["field"]["scale"] * batch["image"] @ params["prey"]["v"]
    loss = Mean.of(jnp.square(gap) / 2, batch["mask"])
    return loss.total, Aux(loss.count, {"turns": model_state["turns"] + 1}, {"distance": loss})


def flight(params, model_state, batch, key):
    total, aux = distance(params, model_state, batch, key)
    return -total, aux


def begun():
    players = init_players(OPTIMIZER, PARAMS, HUNTER, PREY)
    return small.state(jax.tree.map(jnp.asarray, PARAMS), players, {"turns": jnp.int32(0)})


@jax.jit
def hunt(state):
    return descend(distance, state, BATCH, jax.random.key(0), OPTIMIZER, player=HUNTER)


@jax.jit
def flee(state):
    return descend(flight, state, BATCH, jax.random.key(0), OPTIMIZER, player=PREY)


def by_hand(rounds):
    """The parameters after both have moved in turn, and the norm of each one's last gradient."""
    x = np.float64(BATCH["image"][:KEPT])
    w, v, scale = (
        np.float64(PARAMS[player][name])
        for player, name in (("hunter", "w"), ("prey", "v"), ("field", "scale"))
    )
    velocities = [np.zeros(3), np.zeros(3), 0.0]
    for _ in range(rounds):
        hunted = x.T @ (x @ w - scale * x @ v) / KEPT
        velocities[0] = MOMENTUM * velocities[0] + hunted
        w = w - RATE * velocities[0]
        gap = x @ w - scale * x @ v
        fled = [scale * x.T @ gap / KEPT, (x @ v * gap).mean()]
        velocities[1:] = (MOMENTUM * old + g for old, g in zip(velocities[1:], fled, strict=True))
        v, scale = v - RATE * velocities[1], scale - RATE * velocities[2]
    norms = np.linalg.norm(hunted), np.sqrt(np.square(fled[0]).sum() + fled[1] ** 2)
    return {"hunter": {"w": w}, "prey": {"v": v}, "field": {"scale": scale}}, norms


def test_players_that_move_in_turn_each_follow_their_own_loss_and_velocity():
    state = begun()
    for _ in range(3):
        state, _, hunted = hunt(state)
        state, _, fled = flee(state)
    params, norms = by_hand(3)
    jax.tree.map(
        lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-5), state.params, params
    )
    np.testing.assert_allclose((hunted, fled), norms, rtol=1e-5)
    assert state.model_state["turns"] == 6


@pytest.mark.parametrize(("move", "own"), [(hunt, HUNTER), (flee, PREY)])
def test_no_bit_of_the_others_or_of_their_optimizer_changes(move, own):
    before = hunt(flee(begun())[0])[0]
    after, metrics, _ = move(before)
    for name in PARAMS:
        same = jax.tree.map(np.array_equal, before.params[name], after.params[name])
        assert all(jax.tree.leaves(same)) == (name not in own)
    for name in before.opt_state:
        same = jax.tree.map(np.array_equal, before.opt_state[name], after.opt_state[name])
        assert all(jax.tree.leaves(same)) == (name != "+".join(own))
    assert metrics["distance"].count == KEPT


def test_without_players_everything_moves_by_one_optimizer():
    state = begun().replace(opt_state=OPTIMIZER.init(PARAMS))
    moved, _, norm = descend(distance, state, BATCH, jax.random.key(0), OPTIMIZER)
    gradients = jax.grad(lambda params: distance(params, {"turns": 0}, BATCH, None)[0] / KEPT)(
        state.params
    )
    jax.tree.map(
        lambda new, old, gradient: np.testing.assert_allclose(
            new, old - RATE * gradient, rtol=1e-5, atol=1e-7
        ),
        moved.params,
        state.params,
        gradients,
    )
    np.testing.assert_allclose(norm, optax.tree.norm(gradients), rtol=1e-5)


def test_a_batch_without_a_real_example_changes_nothing():
    batch = {**BATCH, "mask": jnp.zeros(COUNT)}
    moved, metrics, norm = descend(
        distance, begun(), batch, jax.random.key(0), OPTIMIZER, player=HUNTER
    )
    jax.tree.map(np.testing.assert_array_equal, moved.params, begun().params)
    assert metrics["distance"].count == norm == 0


@pytest.mark.parametrize("rubbish", [np.nan, np.inf])
def test_a_masked_example_may_hold_anything(rubbish):
    image = jnp.where(BATCH["mask"][:, None] > 0, BATCH["image"], rubbish)
    batch = {**BATCH, "image": image}
    state, _, norm = descend(distance, begun(), batch, jax.random.key(0), OPTIMIZER, player=HUNTER)
    hunted, _, expected = hunt(begun())
    np.testing.assert_allclose(norm, expected, rtol=1e-6)
    jax.tree.map(np.testing.assert_allclose, state.params, hunted.params)
