"""Changes of a series `[time, ...]` that leave its class alone: when it happens, what is missing.

What fills a gap is taken from the series itself, as zero need not be its background.
"""

import jax
import jax.numpy as jnp


def time_shift(key: jax.Array, share: float, series: jax.Array) -> jax.Array:
    """Moves by whole steps, up to that share of the length, earlier or later.

    The first or the last step goes on for as long as there is none before or after it.
    """
    length = len(series)
    steps = round(share * length)
    moved = jax.random.randint(key, (), -steps, steps + 1)
    return series[jnp.clip(jnp.arange(length) - moved, 0, length - 1)]


def time_mask(key: jax.Array, share: float, series: jax.Array) -> jax.Array:
    """Hides consecutive steps, up to that share of the length, behind their mean over time.

    Park et al. (2019), section 2: the number of steps is uniform in 0..share * length and so is
    their beginning. The paper hides them behind 0 in a spectrogram of mean 0, which is the same.
    """
    length = len(series)
    length_key, begin_key = jax.random.split(key)
    hidden = jax.random.randint(length_key, (), 0, round(share * length) + 1)
    begin = jax.random.randint(begin_key, (), 0, length - hidden + 1)
    step = jnp.arange(length).reshape(-1, *(1,) * (series.ndim - 1))
    return jnp.where((begin <= step) & (step < begin + hidden), series.mean(0), series)
