"""What is trained, and how: everything that decides a training's result, as plain data."""

import dataclasses
import importlib
import itertools
from collections.abc import Mapping
from typing import Annotated, Any, Self

import msgspec

import dlcore
from dlcore import data, optim
from dlcore.errors import UsageError
from dlcore.expectation import Expectation
from dlcore.ranges import AboveZero, Natural, Positive, Range, Rate

# The parts of a recipe that have options of their own, in the field NAME_options.
COMPONENTS = ("task", "model", "data")


@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of a training that is a program of its own.

    It starts from the best checkpoint of the phase before (from the newest, where nothing is
    watched), with a fresh optimizer. Where parameters are added, dropped or renamed, its
    `start_mapping` says so.

    Attributes:
      name: of the phase, and of its folder of checkpoints.
      overrides: fields of the recipe that differ in this phase. Options of a component are added to
        the recipe's own, or stand alone where the component is another one.
    """

    name: str
    overrides: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Need:
    """A run that a recipe needs first.

    Attributes:
      recipe: what is trained.
      same_data: it learns from the data and the splits of the recipe that needs it.
    """

    recipe: "Recipe"
    same_data: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe(optim.Options):
    """Everything that decides a training's result; the fields of `optim.Options` are its own, too.

    Attributes:
      name: the word that the launcher's --recipe takes.
      description: one line for a list of recipes.
      expected: the score to reach, or None where there is nothing to compare with.
      imports: modules that register what the recipe names and dlcore does not have.
      needs: runs that are trained first, each in its own folder of the run directory, by the name
        that evaluators and `start_from` know them under.
      phases: parts of the training, each a program of its own; none where the recipe is the whole.
      task: learning regime.
      task_options: of the task, where they differ from its defaults.
      model: name in the registry of models.
      model_options: of the model, where they differ from its defaults.
      data: dataset: digits, diabetes or another bundled one, a TFDS name in the data directory, or
        a path of one's own.
      data_options: of the dataset, where they differ from the defaults.
      start_from: weights to start from instead of the model's own: a run directory, a .safetensors
        file, one of PyTorch's (.pt, .pth), or the name of a run that the recipe needs; empty for
        none.
      start_mapping: which weights go where, as TARGET<-SOURCE with spaces between: TARGET is a
        regular expression for whole parameter paths, SOURCE the path to read; an empty SOURCE
        leaves the model's own start, an empty TARGET leaves weights out. The first word torchvision
        says that the names are those of torchvision's network.
      initializer: how the kernels are drawn: small_uniform, small_normal, xavier, glorot, he,
        kumar, orthogonal or lsuv, with more behind a colon, as in he:uniform; empty for the model's
        own.
      optimizer: learning rule: sgd, momentum, nesterov, heavy_ball, nesterov_heavy_ball, adagrad,
        rmsprop, adam, all_together.
      groups: parameters with settings of their own, as PATTERN:SETTINGS with spaces between:
        PATTERN is a regular expression for whole parameter paths, SETTINGS are frozen, rate=FACTOR,
        optimizer=NAME or an option of an optimizer; the first pattern that matches counts.
      learning_rate: peak learning rate.
      schedule: how the learning rate goes on: constant, time, step, exponential, milestones,
        linear, robbins_monro, cosine, plateau.
      decay_steps: period of the schedules time, step and exponential, which need it.
      decay_factor: what a period of step and exponential, one of the milestones, or a plateau,
        multiplies the learning rate by.
      milestones: when the schedule milestones does that, as shares of the training after its
        warm-up, ascending, above 0 and below 1.
      plateau_patience: evaluations without a better watched metric before the schedule plateau
        multiplies the learning rate by decay_factor.
      restart_from_best: whenever plateau lowers the learning rate, also go back to the parameters
        and the optimizer's state of the best checkpoint.
      warmup_steps: steps of linear warm-up from 0.
      prune_fraction: of all weights, the smallest, that become and stay 0; 0 prunes none.
      prune_epoch: epochs of training before they do; after it, the others are fine-tuned.
      batch_size: global batch, over all devices and processes; 0 takes the whole training split, so
        that an epoch is one step of gradient descent.
      num_epochs: passes over the training split.
      accumulate: parts in which a device's batch goes through the model, to save memory.
      ema_decay: decay of the moving averages, of parameters and statistics, that are evaluated; 0
        for none.
      recompute_statistics: evaluate batch normalization with its statistics over the whole training
        split, an epoch's work before each evaluation, instead of with running averages; with
        `ema_decay` that is always so.
      patience: evaluations without a better watched metric before the run stops; 0 for never.
      evaluate_every: epochs between evaluations on the validation split.
      evaluators: what judges and shows the trained model besides the task's own evaluators, with
        spaces between: NAME or NAME:option=value,option=value adds one, -NAME drops one.
      log_every: steps between records of the training metrics; 0 picks 100, or an epoch if shorter.
      seed: of parameters, order and noise.
      overfit: train on this many examples only, chosen by the seed and of all classes alike, until
        their loss is near zero; 0 for all.
    """

    name: str
    description: str = ""
    expected: Expectation | None = None
    imports: tuple[str, ...] = ()
    needs: Mapping[str, Need] = dataclasses.field(default_factory=dict)
    phases: tuple[Phase, ...] = ()
    task: str = "classification"
    task_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    model: str
    model_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    data: str
    data_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    start_from: str = ""
    start_mapping: str = ""
    initializer: str = ""
    optimizer: str = "momentum"
    groups: str = ""
    learning_rate: AboveZero
    schedule: str = "constant"
    decay_steps: Natural = 0
    decay_factor: Annotated[float, Range(above=0, most=1)] = 0.1
    milestones: tuple[Annotated[float, Range(above=0, below=1)], ...] = (0.5, 0.75)
    plateau_patience: Natural = 0
    restart_from_best: bool = False
    warmup_steps: Natural = 0
    prune_fraction: Rate = 0.0
    prune_epoch: Natural = 0
    batch_size: Natural = 128
    num_epochs: Positive = 10
    accumulate: Positive = 1
    ema_decay: Rate = 0.0
    recompute_statistics: bool = False
    patience: Natural = 0
    evaluate_every: Positive = 1
    evaluators: str = ""
    log_every: Natural = 0
    seed: Natural = 0
    overfit: Natural = 0

    def import_modules(self) -> None:
        """Imports what registers the things that the recipe names.

        Raises:
          UsageError: a module is not there.
        """
        for module in self.imports:
            try:
                importlib.import_module(module)
            except ModuleNotFoundError as error:
                raise UsageError(
                    f"module {module!r} of recipe {self.name!r} cannot be imported ({error}): "
                    "install it, or start where it lies"
                ) from error

    def importing(self, module: str) -> Self:
        """The recipe with a module among its imports."""
        if module in self.imports:
            return self
        return dataclasses.replace(self, imports=(*self.imports, module))

    def of_phase(self, phase: Phase) -> "Recipe":
        """The recipe of one phase: a plain one."""
        fields = dict(phase.overrides)
        for component in COMPONENTS:
            options, same = f"{component}_options", component not in fields
            if same and options in fields:
                fields[options] = {**getattr(self, options), **fields[options]}
            elif not same:
                fields.setdefault(options, {})
        return dataclasses.replace(self, phases=(), **fields)

    def by_phase(self) -> "list[Recipe]":
        """A recipe for each phase; this one where it has none.

        A phase starts from the one before it unless it says otherwise.
        """
        if not self.phases:
            return [self]
        recipes = [self.of_phase(self.phases[0])]
        for before, phase in itertools.pairwise(self.phases):
            after = dataclasses.replace(self, start_from=before.name, start_mapping="")
            recipes.append(after.of_phase(phase))
        return recipes

    def with_data_of(self, other: "Recipe") -> "Recipe":
        """The recipe on the data and the splits of another one."""
        defaults = dataclasses.asdict(data.Options())
        splits = {name: other.data_options.get(name, one) for name, one in defaults.items()}
        return dataclasses.replace(
            self, data=other.data, data_options={**self.data_options, **splits}
        )

    def to_json(self) -> dict[str, Any]:
        """The recipe as plain data; `recipe.json` holds it, with the version that wrote it."""
        plain = dataclasses.asdict(self)
        plain["needs"] = {
            name: {"recipe": need.recipe.to_json(), "same_data": need.same_data}
            for name, need in self.needs.items()
        }
        return {"version": dlcore.__version__, **plain}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Self:
        """What `to_json` gave, back again; fields that it lacks have their defaults.

        Raises:
          UsageError: another version wrote it, with what this one does not know, or a field is of
            another type.
        """
        fields = {name: _as_tuples(value) for name, value in plain.items()}
        version = fields.pop("version", None)
        known = {field.name for field in dataclasses.fields(cls)}
        if version is None or fields.keys() - known:
            strange = ", ".join(sorted(fields.keys() - known))
            # Between two releases the number stays.
            other = "another state of " if version == dlcore.__version__ else ""
            raise UsageError(
                f"a run of {other}dlcore {version or 'before 0.2'} cannot be read by "
                f"{dlcore.__version__}"
                + (f", which does not know {strange}" if version else "")
                + f": use {other}dlcore {version or '0.1'}, or train anew"
            )
        try:
            needs = {
                name: Need(cls.from_json(need["recipe"]), need["same_data"])
                for name, need in fields.pop("needs", {}).items()
            }
            recipe = msgspec.convert(fields, cls)
        except (TypeError, AttributeError, KeyError, msgspec.ValidationError) as error:
            raise UsageError(f"the recipe is damaged: {error}") from error
        return dataclasses.replace(recipe, needs=needs)


def _as_tuples(value: Any) -> Any:
    """What JSON has made lists of, as tuples again."""
    if isinstance(value, list):
        return tuple(map(_as_tuples, value))
    if isinstance(value, dict):
        return {name: _as_tuples(one) for name, one in value.items()}
    return value
