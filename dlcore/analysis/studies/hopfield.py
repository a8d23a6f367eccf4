"""The Hopfield network: its energy in recall, and its capacity near 0.138 n (deck K)."""

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import jax
import numpy as np

from dlcore import plots
from dlcore.analysis import study
from dlcore.errors import UsageError
from dlcore.expectation import Expectation
from dlcore.nn import hopfield
from dlcore.ranges import Natural, Positive, Range

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Patterns per unit: where energies are watched, and where overlaps are measured.
_LOW_LOAD, _LOADS = 0.06, np.array([*range(100, 160, 5), *range(160, 250, 10)]) / 1000
# Share of a pattern's units that are flipped before its recall.
_DAMAGES = (0.1, 0.2, 0.3)


@dataclasses.dataclass(frozen=True)
class Hopfield(study.Study):
    """Random patterns stored by Hebb's rule and recalled, more and more of them.

    First damaged patterns are recalled, at a load of 0.06 patterns per unit, and the energy is
    watched. Then the network starts in its patterns themselves: within its capacity they stay
    nearly where they are, beyond it they drift away. In theory the mean overlap of infinitely many
    units falls to 0.967 at 0.138 patterns per unit, and drops there; the load at which a network's
    falls to 0.967 is its measured capacity.

    Attributes:
      sizes: numbers of units, 50 or more.
      networks: how many of the largest size there are at each load; of smaller ones there are more,
        with as many units in all.
      patterns: how many are recalled in each network, at most.
      seed: of the patterns and of the order of updates.
    """

    sizes: tuple[Annotated[int, Range(least=50)], ...] = (256, 512, 1024)
    networks: Positive = 16
    patterns: Positive = 12
    seed: Natural = 0

    expectations = (
        Expectation("largest_rise_of_energy", 0, "min", "Hopfield (1982): it never rises"),
        *study.near(
            "capacity_of_the_largest", 0.138, 0.01, "Amit, Gutfreund and Sompolinsky (1985)"
        ),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.sizes:
            raise UsageError("sizes is empty: name at least one")

    def run(self) -> study.Numbers:
        """Energies of three recalls, and the mean overlap by size and load with its capacities."""
        energy = self._energies(min(self.sizes))
        overlap = np.array([self._overlaps(units) for units in self.sizes])
        theory_load, theory_overlap = retrieval_states()
        # Noise may let the overlap rise in between; a capacity is passed once.
        falling = np.minimum.accumulate(overlap, axis=1)
        capacity = np.array([np.interp(-theory_overlap[0], -own, _LOADS) for own in falling])
        return {
            "energy": energy,
            "largest_rise_of_energy": np.diff(energy).max(),
            "load": _LOADS,
            "overlap": overlap,
            "theory_load": theory_load,
            "theory_overlap": theory_overlap,
            "capacity_by_size": capacity,
            "capacity_of_the_largest": capacity[np.argmax(self.sizes)],
            "capacity_in_theory": theory_load[0],
        }

    def draw(self, numbers: Mapping[str, np.ndarray]) -> "Figure":
        """The energy as damaged patterns are recalled, and overlaps by load."""
        updates = np.arange(numbers["energy"].shape[1])
        energies = [
            plots.Line(updates, energy, f"{damage:.0%} flipped", color=color)
            for damage, energy, color in zip(_DAMAGES, numbers["energy"], (3, 4, 5), strict=True)
        ]
        overlaps = [
            plots.Line(numbers["load"], overlap, f"{units} units", "path", color)
            for color, (units, overlap) in enumerate(
                zip(self.sizes, numbers["overlap"], strict=True)
            )
        ]
        shown = numbers["theory_load"] >= numbers["load"][0]
        theory = plots.Line(
            np.insert(numbers["theory_load"][shown], 0, numbers["capacity_in_theory"]),
            np.insert(numbers["theory_overlap"][shown], 0, 0.0),
            "infinitely many, in theory",
            "dashed",
            6,
        )
        title = "recall of more and more patterns"
        return plots.line_panels(
            [
                plots.Panel("recall of a damaged pattern", energies, "updates", "energy"),
                plots.Panel(title, [*overlaps, theory], "patterns per unit", "mean overlap"),
            ]
        )

    def _overlaps(self, units: int) -> list[float]:
        """For each load the mean overlap of settled states with the patterns they started in."""
        generator = np.random.default_rng([self.seed, units])
        probes = min(self.patterns, round(_LOADS[0] * units))
        overlaps = []
        for load in _LOADS:
            # Rows of zeros store nothing, and make one compilation serve every load.
            patterns = np.zeros((round(_LOADS[-1] * units), units), np.float32)
            own = []
            for network in range(self.networks * max(self.sizes) // units):
                patterns[: round(load * units)] = _signs(generator, round(load * units), units)
                starts = patterns[:probes]
                settled, _ = _recall(_store(patterns), starts, jax.random.key(network))
                own.append((np.asarray(settled) * starts).mean())
            overlaps.append(float(np.mean(own)))
        return overlaps

    def _energies(self, units: int) -> np.ndarray:
        """The energy before each update of two sweeps, by damage."""
        generator = np.random.default_rng([self.seed, 0])
        patterns = _signs(generator, round(_LOW_LOAD * units), units)
        states = np.repeat(patterns[:1], len(_DAMAGES), axis=0)
        for state, damage in zip(states, _DAMAGES, strict=True):
            state[generator.choice(units, round(damage * units), replace=False)] *= -1
        order = np.concatenate([generator.permutation(units) for _ in range(2)])
        weights = _store(patterns)
        return np.asarray(_energies_by_update(weights, states, order)).T


_store, _recall = jax.jit(hopfield.store), jax.jit(hopfield.recall)


@jax.jit
def _energies_by_update(weights: jax.Array, states: jax.Array, order: jax.Array) -> jax.Array:
    """The energies `[updates, states]` before each single update."""

    def update(states: jax.Array, unit: jax.Array) -> tuple[jax.Array, jax.Array]:
        return hopfield.sweep(weights, states, unit[None]), hopfield.energy(weights, states)

    return jax.lax.scan(update, states, order)[1]


def _signs(generator: np.random.Generator, count: int, units: int) -> np.ndarray:
    return generator.choice(np.array([-1, 1], np.float32), (count, units))


def retrieval_states() -> tuple[np.ndarray, np.ndarray]:
    """Load and overlap of the states near a pattern, for infinitely many units without noise.

    With overlap erf(y) the load is (erf(y) / y - 2 exp(-y^2) / sqrt(pi))^2 / 2, whose maximum is
    the capacity. Source: Amit, Gutfreund and Sompolinsky (1985), "Storing infinite numbers of
    patterns in a spin-glass model of neural networks".
    """
    y = np.linspace(0.5, 3.5, 3001)
    overlap = np.array([math.erf(value) for value in y])
    load = (overlap / y - 2 * np.exp(-(y**2)) / math.sqrt(math.pi)) ** 2 / 2
    # Below the maximum's y the states are unstable.
    stable = load.argmax()
    return load[stable:], overlap[stable:]


study.register("hopfield", Hopfield)
