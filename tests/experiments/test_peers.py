"""PyTorch's ResNet-50 is the paper's, and takes steps."""

import os
import pathlib

import pytest

from experiments import peers
from kernels import timing

EFFORT = timing.Effort(calls=1, runs=1)


@pytest.fixture
def python():
    """A Python that has PyTorch."""
    root = pathlib.Path(peers.__file__).parents[1]
    found = os.environ.get("DLCORE_PEERS_PYTHON", root / ".peers" / "bin" / "python")
    if not pathlib.Path(found).exists():
        pytest.skip(f"PyTorch's environment is not there: `make peers` makes {found}")
    return str(found)


@pytest.mark.slow
def test_the_network_has_the_parameters_of_ours(python):
    count = "1.0 * sum(array.numel() for array in resnet50(3, 1000).parameters())"
    script = timing.Script(f"{peers.NETWORK}\nprint(json.dumps({{'parameters': [{count}]}}))", ())
    assert timing.torch_seconds(python, script, EFFORT) == {"parameters": [25_557_032]}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_its_step_is_timed(python, dtype):
    taken = peers.resnet50_seconds(python, (2, 33, 32, 1), 10, dtype, EFFORT, ("torch",))
    assert set(taken) == {"torch"}
    assert taken["torch"] > 0
