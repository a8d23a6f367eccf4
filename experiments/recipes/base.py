"""What a recipe is, and the catalogue of recipes."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from dlcore.expectation import Expectation
from dlcore.registry import Registry


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a training's result; every field but the first three is a flag.

    Attributes:
      name: the word that --recipe takes.
      description: one line for --list.
      expected: the score to reach, or None where there is nothing to compare with.
      task: learning regime.
      task_options: of the task, where they differ from its defaults.
      model: name in the registry of models.
      model_options: of the model, where they differ from its defaults.
      data: dataset: digits, diabetes or another bundled one, a TFDS name under --data_dir, or a
        path of one's own.
      data_options: of the dataset, where they differ from the defaults.
      initializer: how the kernels are drawn: small_uniform, small_normal, xavier, glorot, he,
        kumar, orthogonal or lsuv, with more behind a colon, as in he:uniform; empty for the model's
        own.
      optimizer: learning rule: sgd, momentum, nesterov, heavy_ball, nesterov_heavy_ball, adagrad,
        rmsprop, adam, all_together.
      learning_rate: peak learning rate.
      schedule: how the learning rate goes on: constant, time, step, exponential,
        robbins_monro, cosine, plateau.
      decay_steps: period of the schedules time, step and exponential, which need it.
      decay_factor: what a period of step and exponential, or a plateau, multiplies the learning
        rate by.
      plateau_patience: evaluations without a better watched metric before the schedule plateau
        multiplies the learning rate by decay_factor.
      restart_from_best: whenever plateau lowers the learning rate, also go back to the parameters
        and the optimizer's state of the best checkpoint.
      warmup_steps: steps of linear warm-up from 0.
      momentum: of momentum, nesterov, both heavy balls and all_together.
      beta1: decay of Adam's first moment.
      beta2: decay of Adam's second moment.
      rms_decay: decay of RMSProp's mean square.
      epsilon: what keeps an adaptive rule from dividing by zero.
      weight_decay: times the parameters; biases and normalisation are left out.
      decoupled_weight_decay: decay behind the rule instead of in the gradient: AdamW for adam.
      l1: times the signs of the parameters; biases and normalisation are left out.
      clip_norm: gradients are scaled down to this global norm; 0 leaves them.
      clip_average_factor: gradients are scaled down to this times their mean norm so far; 0 leaves
        them.
      gradient_noise: standard deviation of the noise on the gradient at step 0; 0 for none.
      gradient_noise_decay: at step t that deviation is divided by (1 + t) to this power.
      prune_fraction: of all weights, the smallest, that become and stay 0; 0 prunes none.
      prune_epoch: epochs of training before they do; after it, the others are fine-tuned.
      batch_size: global batch, over all devices and processes; 0 takes the whole training split, so
        that an epoch is one step of gradient descent.
      num_epochs: passes over the training split.
      accumulate: parts in which a device's batch goes through the model, to save memory.
      ema_decay: decay of the moving average of the parameters that is evaluated; 0 for none.
      recompute_statistics: evaluate batch normalisation with its statistics over the whole training
        split, an epoch's work before each evaluation, instead of with running averages.
      patience: evaluations without a better watched metric before the run stops; 0 for never.
      evaluate_every: epochs between evaluations on the validation split.
      log_every: steps between records of the training metrics; 0 picks 100, or an epoch if shorter.
      seed: of parameters, order and noise.
      overfit: train on this many examples only, until their loss is near zero; 0 for all.
      judge: recipe of the classifier that judges generated samples; empty for none.
    """

    name: str
    description: str
    expected: Expectation | None = None
    task: str = "classification"
    task_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    model: str
    model_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    data: str
    data_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    initializer: str = ""
    optimizer: str = "momentum"
    learning_rate: float
    schedule: str = "constant"
    decay_steps: int = 0
    decay_factor: float = 0.1
    plateau_patience: int = 0
    restart_from_best: bool = False
    warmup_steps: int = 0
    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.999
    rms_decay: float = 0.9
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    decoupled_weight_decay: bool = False
    l1: float = 0.0
    clip_norm: float = 0.0
    clip_average_factor: float = 0.0
    gradient_noise: float = 0.0
    gradient_noise_decay: float = 0.275
    prune_fraction: float = 0.0
    prune_epoch: int = 0
    batch_size: int = 128
    num_epochs: int = 10
    accumulate: int = 1
    ema_decay: float = 0.0
    recompute_statistics: bool = False
    patience: int = 0
    evaluate_every: int = 1
    log_every: int = 0
    seed: int = 0
    overfit: int = 0
    judge: str = ""

    def to_json(self) -> dict[str, Any]:
        """The recipe as plain data; `recipe.json` holds it."""
        plain = dataclasses.asdict(self)
        return {name: plain[name] for name in plain if name not in ("description", "expected")}

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> "Recipe":
        """What `to_json` gave, back again; the name says what it is and which score to expect.

        Raises:
          TypeError: a field is not of this version.
        """
        known = get(plain["name"]) if plain.get("name") in names() else None
        # JSON makes lists of tuples.
        fields: dict[str, Any] = {
            field: {
                option: tuple(setting) if isinstance(setting, list) else setting
                for option, setting in value.items()
            }
            if isinstance(value, dict)
            else value
            for field, value in plain.items()
        }
        return cls(
            description=known.description if known else "",
            expected=known.expected if known else None,
            **fields,
        )


_recipes: Registry[Recipe] = Registry("recipe")
names, get = _recipes.names, _recipes.get


def register(*recipes: Recipe) -> None:
    """Adds recipes; a taken name is a ValueError, at import."""
    for recipe in recipes:
        _recipes.add(recipe.name, recipe)


def listing() -> str:
    """Every recipe with what it is and the score it should reach, a line each."""
    width = max(map(len, names()))
    return "\n".join(
        f"{recipe.name:<{width}}  {recipe.description}"
        + (f" [{recipe.expected}: {recipe.expected.source}]" if recipe.expected else "")
        for recipe in map(get, names())
    )
