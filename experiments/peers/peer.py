"""What a twin gives: a network, its loss, and its train step; and the twins by name."""

import dataclasses
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

Batch = Mapping[str, torch.Tensor]
Step = Callable[[Batch], torch.Tensor]


class RefusedError(ValueError):
    """Something of a recipe that a twin does not follow."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """The fields of a recipe that a step follows, with the recipe's names and defaults."""

    learning_rate: float
    optimizer: str = "momentum"
    schedule: str = "constant"
    warmup_steps: int = 0
    momentum: float = 0.9
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 0.0

    def rule(self, params: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimizer; the penalty leaves biases and the scales of normalization out."""
        groups = [
            {"params": [one for one in params if one.ndim > 1], "weight_decay": self.weight_decay},
            {"params": [one for one in params if one.ndim < 2], "weight_decay": 0.0},
        ]
        options: dict[str, Any] = {"lr": self.learning_rate, "fused": True}
        if self.optimizer == "adam":
            betas = self.beta1, self.beta2
            return torch.optim.Adam(groups, betas=betas, eps=self.epsilon, **options)
        if self.optimizer == "sgd":
            return torch.optim.SGD(groups, **options)
        if self.optimizer in ("momentum", "nesterov"):
            options["nesterov"] = self.optimizer == "nesterov"
            return torch.optim.SGD(groups, momentum=self.momentum, **options)
        raise RefusedError(
            f"optimizer={self.optimizer}: PyTorch's step has sgd, momentum, nesterov and adam"
        )

    def rate(self, rule: torch.optim.Optimizer, num_steps: int) -> Callable[[], None]:
        """What is called after each step of a training of `num_steps`."""
        if self.schedule not in ("constant", "cosine"):
            raise RefusedError(f"schedule={self.schedule}: PyTorch's step has constant and cosine")

        def factor(step: int) -> float:
            if step < self.warmup_steps:
                return step / self.warmup_steps
            if self.schedule == "constant":
                return 1.0
            share = (step - self.warmup_steps) / (num_steps - self.warmup_steps)
            return (1 + math.cos(math.pi * share)) / 2

        return torch.optim.lr_scheduler.LambdaLR(rule, factor).step


class Peer(nn.Module):
    """The twin of a model, with the loss of a task.

    The constructor takes a batch, for its shapes, then options of our model.
    """

    task: ClassVar[str]

    def loss(self, batch: Batch) -> torch.Tensor:
        """The mean loss of a batch in training mode."""
        raise NotImplementedError

    def make_step(self, training: Training, num_steps: int, compiled: bool) -> Step:
        """The step that learns from a batch and gives its loss.

        Args:
          training: how it learns.
          num_steps: of the whole training, over which the schedule goes.
          compiled: whether `torch.compile` is used, for the loss and its gradient.
        """
        loss = torch.compile(self.loss) if compiled else self.loss
        params = [param for param in self.parameters() if param.requires_grad]
        rule = training.rule(params)
        lower = training.rate(rule, num_steps)

        def step(batch: Batch) -> torch.Tensor:
            rule.zero_grad()
            value = loss(batch)
            value.backward()
            if training.clip_norm:
                nn.utils.clip_grad_norm_(params, training.clip_norm)
            rule.step()
            lower()
            return value.detach()

        return step


class Classifier(Peer):
    """A twin that is trained by cross-entropy, from "image" `[batch, height, width, channels]`."""

    task = "classification"

    def loss(self, batch: Batch) -> torch.Tensor:
        """The mean cross-entropy."""
        return functional.cross_entropy(self(batch["image"]), batch["label"])


_peers: dict[str, Callable[..., Peer]] = {}


def register(model: str, peer: Callable[..., Peer]) -> None:
    """Adds the twin of a model; `peer` takes a batch and options of the model."""
    _peers[model] = peer


def create(model: str, task: str, options: Mapping[str, Any], batch: Batch) -> Peer:
    """The twin of a model for a task.

    Args:
      model: the name of ours.
      task: the name of ours.
      options: those that are not at the model's defaults.
      batch: of the shapes to come.

    Raises:
      RefusedError: there is none, or it does not follow an option.
    """
    if model not in _peers:
        raise RefusedError(f"model={model}: PyTorch has {', '.join(sorted(_peers))}")
    check_followed(_peers[model], options, "model.")
    peer = _peers[model](batch, **options)
    if peer.task != task:
        raise RefusedError(f"task={task}: PyTorch's {model} has the task {peer.task}")
    return peer


def check_followed(function: Callable[..., Any], given: Mapping[str, Any], prefix: str) -> None:
    """Raises RefusedError for an option that is no parameter of a function."""
    for name in given.keys() - inspect.signature(function).parameters.keys():
        raise RefusedError(f"{prefix}{name}={given[name]}: PyTorch's twin has its default only")
