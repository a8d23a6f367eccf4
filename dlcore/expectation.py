"""The score that a recipe or a study is expected to reach."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Expectation:
    """A bound on one number of a result.

    Attributes:
      metric: the number's name in the results.
      value: the bound.
      mode: "max" where the number must be at least `value`, "min" where at most.
      source: who published the number, or how the bound was set.
    """

    metric: str
    value: float
    mode: str
    source: str

    def met(self, score: float) -> bool:
        """Whether a score is good enough."""
        return score >= self.value if self.mode == "max" else score <= self.value

    @property
    def bound(self) -> str:
        """The bound without the number's name: ">= 0.97"."""
        return f"{'>=' if self.mode == 'max' else '<='} {self.value:g}"

    def __str__(self) -> str:
        return f"{self.metric} {self.bound}"
