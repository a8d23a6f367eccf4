"""The learning-rate range test (Smith, 2017, section 3.3): the loss while the rate grows."""

import dataclasses

import numpy as np

from dlcore import data
from dlcore.errors import UsageError
from dlcore.optim import rate
from dlcore.train.program import Program

# Weight of the loss so far in its moving average.
SMOOTHING = 0.9
# The test is over where the smoothed loss is this many times its lowest: nothing comes behind that.
DIVERGED = 4.0


@dataclasses.dataclass(frozen=True)
class RangeTest:
    """What a range test found.

    Attributes:
      rate: learning rate of each update that was made, `[updates]`.
      loss: the batch's mean loss before that update, `[updates]`.
      smoothed: the moving average of `loss`, without the bias of its beginning, `[updates]`.
    """

    rate: np.ndarray
    loss: np.ndarray
    smoothed: np.ndarray

    @property
    def lowest(self) -> float:
        """The rate at the lowest smoothed loss; larger ones undo what was learned."""
        return float(self.rate[np.argmin(self.smoothed)])

    @property
    def steepest(self) -> float:
        """The rate up to the lowest loss at which the smoothed loss falls fastest by log rate."""
        end = max(int(np.argmin(self.smoothed)) + 1, 2)
        slope = np.gradient(self.smoothed[:end], np.log(self.rate[:end]))
        return float(self.rate[np.argmin(slope)])


def run(program: Program, batches: data.TrainBatches, rates: np.ndarray) -> RangeTest:
    """Trains from the start, one update at each rate, until the loss diverges.

    Args:
      program: whose schedule is constant at the first of the rates.
      batches: this process's shares of the training batches.
      rates: what the learning rate is at each update, `[updates]`, ascending, at least two.

    Raises:
      UsageError: the loss is not finite from the beginning.
    """
    layout = program.parallelism
    state = layout.place_state(program.initialize())
    losses: list[float] = []
    smoothed: list[float] = []
    average = 0.0
    multipliers = np.concatenate([[1.0], rates[1:] / rates[:-1]])
    with data.prefetch(batches.start(0), layout.place_batch) as placed:
        for multiplier, batch in zip(multipliers, placed, strict=False):
            state = state.replace(opt_state=rate.rescale(state.opt_state, float(multiplier)))
            state, report = program.step(state, batch)
            report = layout.to_host(report)
            if not np.isfinite(report.loss):
                break
            losses.append(float(report.loss))
            average = SMOOTHING * average + (1 - SMOOTHING) * losses[-1]
            smoothed.append(average / (1 - SMOOTHING ** len(losses)))
            # The loss is of the parameters before the update, which may not have been taken over.
            if not report.finite or smoothed[-1] > DIVERGED * min(smoothed):
                break
    if len(losses) < 2:
        raise UsageError(f"the loss is not finite at a learning rate of {rates[0]:g}: begin lower")
    return RangeTest(rates[: len(losses)], np.asarray(losses), np.asarray(smoothed))
