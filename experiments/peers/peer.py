"""What a twin gives: a network, its loss, and its train step; and the twins by name."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn import functional

Batch = Mapping[str, torch.Tensor]
Step = Callable[[Batch], torch.Tensor]


class RefusedError(ValueError):
    """Something of a recipe that a twin does not follow."""


class Peer(nn.Module):
    """The twin of a model, with the loss of a task.

    The constructor takes a batch, for its shapes, then options of our model.
    """

    task: ClassVar[str]

    def loss(self, batch: Batch) -> torch.Tensor:
        """The mean loss of a batch in training mode."""
        raise NotImplementedError

    def make_step(
        self,
        compiled: bool,
        num_steps: int,
        *,
        learning_rate: float,
        optimizer: str = "momentum",
        schedule: str = "constant",
        momentum: float = 0.9,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        clip_norm: float = 0.0,
    ) -> Step:
        """The step that learns from a batch and gives its loss.

        Args:
          compiled: whether `torch.compile` is used for the loss and its gradient.
          num_steps: of the whole training, which the schedule goes over.
          **fields: the recipe's, with its names and defaults.
        """
        loss = torch.compile(self.loss) if compiled else self.loss
        params = [param for param in self.parameters() if param.requires_grad]
        groups = [
            {"params": [p for p in params if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in params if p.ndim < 2], "weight_decay": 0.0},
        ]
        rule: Any
        if optimizer == "adam":
            rule = torch.optim.Adam(groups, learning_rate, (beta1, beta2), epsilon, fused=True)
        elif optimizer in ("sgd", "momentum", "nesterov"):
            rho, nesterov = momentum * (optimizer != "sgd"), optimizer == "nesterov"
            rule = torch.optim.SGD(groups, learning_rate, rho, nesterov=nesterov, fused=True)
        else:
            raise RefusedError(f"optimizer={optimizer}: PyTorch's step has adam, momentum, ...")
        rates = torch.optim.lr_scheduler
        if schedule not in ("constant", "cosine"):
            raise RefusedError(f"schedule={schedule}: PyTorch's step has constant and cosine")
        rate = rates.CosineAnnealingLR(rule, num_steps) if schedule == "cosine" else None

        def step(batch: Batch) -> torch.Tensor:
            rule.zero_grad()
            value = loss(batch)
            value.backward()
            if clip_norm:
                nn.utils.clip_grad_norm_(params, clip_norm)
            rule.step()
            if rate:
                rate.step()
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
