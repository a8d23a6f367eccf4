"""What a study is: a demonstration of the lectures that gives numbers and draws their figure."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from dlcore import ranges
from dlcore.expectation import Expectation
from dlcore.registry import Registry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Scalars and arrays by name.
Numbers = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Study(abc.ABC):
    """A study; its fields are its options, each with a default (and a flag of the launcher).

    Attributes:
      expectations: bounds on scalars of `run`, which a study with the default options meets.

    Raises:
      UsageError: an option is out of its range.
    """

    expectations: ClassVar[tuple[Expectation, ...]] = ()

    def __post_init__(self) -> None:
        ranges.check(self)

    @property
    def datasets(self) -> tuple[str, ...]:
        """What `run` reads that has to be in the data directory; most need nothing."""
        return ()

    @abc.abstractmethod
    def run(self) -> Numbers:
        """Measures: scalars and NumPy arrays by name, the same for the same options."""

    @abc.abstractmethod
    def draw(self, numbers: Mapping[str, np.ndarray]) -> "Figure":
        """The figure of what `run` measured."""


def near(
    metric: str, value: float, tolerance: float, source: str
) -> tuple[Expectation, Expectation]:
    """The expectation that a number is what theory or a publication says, from below and above.

    Args:
      metric: the number's name.
      value: what it should be.
      tolerance: how far it may be from that, either way.
      source: who says so.
    """
    source = f"{source}: {value:.4g}"
    return (
        Expectation(metric, value - tolerance, "max", source),
        Expectation(metric, value + tolerance, "min", source),
    )


# Each is in the module of its own name.
_MODULES = (
    "acceleration",
    "activations",
    "augmentations",
    "descent_paths",
    "differentiation",
    "dropout_ensemble",
    "edge_filters",
    "hopfield",
    "inception_module",
    "initialization",
    "landscape",
    "learning_rates",
    "linear_stack",
    "losses",
    "penalties",
    "receptive_field",
    "recurrent_gradients",
    "residual_learning",
    "saddle_points",
    "shift",
    "shrinkage",
    "threshold_logic",
    "threshold_regions",
    "transfer",
    "units",
    "universal_approximation",
    "upsampling",
)
_studies: Registry[type[Study]] = Registry(
    "study", "dlcore.analysis.studies", {module: (module,) for module in _MODULES}
)
register, names, kind = _studies.add, _studies.names, _studies.get


def defaults(name: str) -> dict[str, Any]:
    """The options of a study and their defaults."""
    return {field.name: field.default for field in dataclasses.fields(kind(name))}


def create(name: str, **options: Any) -> Study:
    """The study of that name.

    Raises:
      UsageError: no such study, or it has no such option, or an option's value is out of range.
    """
    _studies.check_options(name, options, defaults(name))
    return kind(name)(**options)
