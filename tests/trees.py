"""Models of sequences that can be followed by hand: a tree with a distribution at every node."""

import jax
import jax.numpy as jnp
import numpy as np

VOCABULARY, LENGTH, END = 3, 4, 2
NODES = (VOCABULARY**LENGTH - 1) // (VOCABULARY - 1)


def child(node, token):
    """The node that a token leads to."""
    return node * VOCABULARY + token + 1


def distributions(rows, seed=0):
    """A tree for each row: log-probabilities `[rows, NODES, VOCABULARY]`."""
    scores = 2 * np.random.default_rng(seed).normal(size=(rows, NODES, VOCABULARY))
    return jax.nn.log_softmax(jnp.asarray(scores, jnp.float32))


def carry(rows):
    """Before the start token. Each row knows its tree, and twice at which node it is."""
    nowhere = jnp.full((rows, 2, 1), -1)
    return {"row": jnp.arange(rows), "nodes": (nowhere[:, 0, 0], nowhere)}


def step_of(table):
    """The step; NaN where the arrays of a carry are of different hypotheses."""

    def step(carry, tokens):
        node, again = carry["nodes"]
        agree = (again == node[:, None, None]).all((1, 2))
        node = jnp.where(node < 0, 0, child(node, tokens))
        scores = jnp.where(agree[:, None], table[carry["row"], node], jnp.nan)
        nodes = node, jnp.broadcast_to(node[:, None, None], again.shape)
        return scores, {**carry, "nodes": nodes}

    return step


def score(table, tokens, given=0):
    """The log-probability of one row's tokens, of which the first ones are given."""
    node, total = 0, 0.0
    for position, token in enumerate(tokens):
        total += float(table[node, token]) if position >= given else 0.0
        node = child(node, int(token))
    return total


def poisoned(table):
    """The trees with NaN at every node behind an end token."""
    behind = np.zeros(NODES, bool)
    for number in range(1, NODES):
        parent, token = divmod(number - 1, VOCABULARY)
        behind[number] = behind[parent] or token == END
    return jnp.where(behind[:, None], jnp.nan, table)
