"""Makes twins and takes steps with them, as `experiments.pytorch` asks: JSON, a line each way."""

import contextlib
import importlib
import itertools
import json
import pkgutil
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from experiments import peers
from experiments.peers import peer


class Worker:
    """The twins that were made, by the name that they were asked for under.

    Args:
      device: "cpu" or "cuda".
      threads: of the CPU.
    """

    def __init__(self, device: str, threads: int) -> None:
        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = True
        self._device = torch.device(device)
        self._steps: dict[str, peer.Step] = {}
        self._batches: dict[str, Iterator[peer.Batch]] = {}

    def make(
        self,
        name: str,
        model: str,
        task: str,
        model_options: Mapping[str, Any],
        training: Mapping[str, Any],
        num_steps: int,
        compiled: bool,
        batches: str,
        weights: str,
    ) -> dict[str, Any]:
        """Makes a twin.

        Args:
          name: of the twin from now on.
          model: as the recipe's, as task and model_options.
          task: see above.
          model_options: see above.
          training: the recipe's fields that its step depends on.
          num_steps: of the whole training.
          compiled: whether it is compiled.
          batches: a .npz file of prepared batches, as "0/image".
          weights: a .npz file of the parameters by their names here; empty for its own start.

        Returns:
          How many parameters it learns.
        """
        drawn = _batches(np.load(batches), self._device)
        made = peer.create(model, task, model_options, drawn[0])
        peer.check_followed(peer.Training, training, "")
        learned = {key: one for key, one in made.named_parameters() if one.requires_grad}
        if weights:
            arrays = {key: torch.from_numpy(one) for key, one in np.load(weights).items()}
            assert arrays.keys() == learned.keys(), sorted(arrays.keys() ^ learned.keys())
            made.load_state_dict(arrays, strict=False)
        made.to(self._device, memory_format=torch.channels_last)
        self._batches[name] = itertools.cycle(drawn)
        self._steps[name] = made.make_step(peer.Training(**training), num_steps, compiled)
        return {"parameters": sum(parameter.numel() for parameter in learned.values())}

    def run(self, name: str, steps: int) -> dict[str, Any]:
        """Takes steps; the seconds of one, and the last one's loss."""
        step, batches = self._steps[name], self._batches[name]
        self._wait()
        begin = time.perf_counter()
        for batch in itertools.islice(batches, steps):
            loss = step(batch)
        self._wait()
        return {"seconds": (time.perf_counter() - begin) / steps, "loss": loss.item()}

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()


def _batches(arrays: Mapping[str, np.ndarray], device: torch.device) -> list[dict[str, Any]]:
    batches: dict[str, dict[str, Any]] = {}
    for path, array in arrays.items():
        number, _, name = path.partition("/")
        tensor = torch.from_numpy(array).to(device)
        # PyTorch's losses want the labels so.
        wide = tensor.long() if tensor.dtype == torch.int32 else tensor
        batches.setdefault(number, {})[name] = wide
    return list(batches.values())


def main() -> None:
    """Answers until nobody asks any more."""
    for module in pkgutil.iter_modules(peers.__path__, "experiments.peers."):
        importlib.import_module(module.name)
    worker = Worker(**json.loads(sys.argv[1]))
    pipe = sys.stdout
    for line in sys.stdin:
        request = json.loads(line)
        # Whatever else is printed does not belong to the answer.
        with contextlib.redirect_stdout(sys.stderr):
            try:
                answer = getattr(worker, request.pop("do"))(**request)
            except peer.RefusedError as error:
                answer = {"refused": str(error)}
            except Exception:
                answer = {"failed": traceback.format_exc()}
        print(json.dumps(answer), file=pipe, flush=True)


if __name__ == "__main__":
    main()
