"""The benchmark's rounds, its table, and what it asks of PyTorch, which a stand-in plays."""

import json
import re
import sys

import pytest
from absl import flags as absl_flags

from dlcore.errors import UsageError
from experiments import benchmark, flags, pytorch
from kernels import timing

SOFTMAX = (
    "--recipes=lenet5_digits",
    "--model=softmax_regression",
    "--data.augment=",
    "--seconds=0.02",
    "--rounds=2",
)
# Keeps what it is asked, in the file of its first word, and says that every step takes a second.
STAND_IN = """
import json, sys
asked = open(sys.argv[1], "a")
print(sys.argv[2], file=asked)
for line in sys.stdin:
    print(line, end="", file=asked, flush=True)
    print(json.dumps({answer}), flush=True)
"""


def milliseconds(output):
    return {
        name: float(figure) for name, figure in re.findall(r"  (.*), milliseconds +(.*)", output)
    }


def ratio(output, name):
    return float(re.search(rf"  {name} +([\d.]+)", output)[1])


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Starts a stand-in that gives an answer; what it was asked."""

    def start(answer):
        path = tmp_path / "asked"
        script = STAND_IN.replace("{answer}", repr(answer))
        monkeypatch.setattr(timing, "torch_refusal", lambda python: None)
        monkeypatch.setattr(pytorch, "WORKER", ("-c", script, str(path)))
        return lambda: [json.loads(line) for line in path.read_text().splitlines()]

    return start


def test_the_launcher_and_the_bare_step_are_compared(call):
    code, output, _ = call(benchmark, *SOFTMAX)
    assert code == 0
    assert "lenet5_digits (softmax_regression): image 64x28x28x1 float32, label 64" in output
    times = milliseconds(output)
    assert times.keys() == {"launcher", "bare step"}
    assert min(times.values()) > 0
    assert ratio(output, "launcher / bare step") > 0


def test_the_table_has_the_medians_of_times_and_of_ratios():
    rounds = [
        {"launcher": 0.003, "bare step": 0.001},
        {"launcher": 0.004, "bare step": 0.004},
        {"launcher": 0.010, "bare step": 0.005},
    ]
    assert benchmark.rows(rounds) == {
        "launcher, milliseconds": 4.0,
        "bare step, milliseconds": 4.0,
        "launcher / bare step": 2.0,
    }


@pytest.mark.slow
def test_steps_of_two_implementations_are_compared(call, tmp_path):
    (tmp_path / "fox.txt").write_text("the quick brown fox jumps over the lazy dog.\n" * 20)
    code, output, _ = call(
        benchmark,
        "--recipes=char_lstm_shakespeare",
        f"--data={tmp_path}",
        "--data.sequence_length=5",
        "--model.hidden=4",
        "--batch_size=8",
        "--against=xla",
        "--seconds=0.01",
        "--rounds=1",
    )
    assert code == 0
    times = milliseconds(output)
    assert times.keys() == {"launcher", "bare step", "bare step with other kernels"}
    expected = times["bare step with other kernels"] / times["bare step"]
    assert ratio(output, "bare step with other kernels / bare step") == pytest.approx(
        expected, rel=0.02, abs=0.01
    )


def test_a_model_that_calls_no_kernel_is_compared_with_nothing(call):
    code, _, error = call(benchmark, "--recipes=lenet5_digits", "--against=xla")
    assert code == 2
    assert "--kernels=xla: --model=lenet5_modern calls no kernel" in error


def test_pytorch_takes_its_turns_with_the_step_without_preparation(call, asked):
    requests = asked({"parameters": 7850, "seconds": 1.0})
    code, output, _ = call(benchmark, *SOFTMAX, "--torch=" + sys.executable, "--torch_compile")
    assert code == 0
    times = milliseconds(output)
    assert times["PyTorch's step"] == times["PyTorch's compiled step"] == 1000
    pure = times["step on prepared batches"]
    assert 0 < pure < 1000
    assert ratio(output, "step on prepared batches / PyTorch's step") == pytest.approx(
        pure / 1000, abs=1e-4
    )
    start, made, compiled, *turns = requests()
    assert start == {"device": "cpu", "threads": benchmark.cores()}
    assert (made["model"], made["task"]) == ("softmax_regression", "classification")
    assert made["model_options"] == {}
    assert made["training"] == {"optimizer": "adam", "learning_rate": 1e-3, "schedule": "cosine"}
    assert (made["compiled"], compiled["compiled"]) == (False, True)
    # One round goes before the two that count.
    assert [turn["name"] for turn in turns] == [made["name"], compiled["name"]] * 3
    assert len({turn["steps"] for turn in turns}) == 1


def test_what_pytorch_s_twin_refuses_ends_the_program_in_one_line(call, asked):
    asked({"refused": "model=softmax_regression: PyTorch has mlp"})
    code, output, error = call(benchmark, *SOFTMAX, "--torch=" + sys.executable)
    assert code == 2
    assert not output
    assert error.endswith("error: --model=softmax_regression: PyTorch has mlp\n")


def test_a_failure_on_the_other_side_is_told(asked, monkeypatch):
    asked({"failed": "Traceback: no memory"})
    with pytorch.PyTorch(sys.executable, 1) as other, pytest.raises(RuntimeError, match="no mem"):
        other.run("twin", 1)
    monkeypatch.setattr(pytorch, "WORKER", ("-c", "pass"))
    with (
        pytorch.PyTorch(sys.executable, 1) as other,
        pytest.raises(RuntimeError, match="has ended"),
    ):
        other.run("twin", 1)


def test_a_python_without_pytorch_is_refused(call):
    code, _, error = call(benchmark, *SOFTMAX, "--torch=/nowhere/python")
    assert code == 2
    assert "error: --torch: '/nowhere/python' does not start: No such file" in error


@pytest.mark.parametrize("words", [("--seconds=0",), ("--rounds=0",)])
def test_an_effort_of_nothing_is_refused(call, words):
    code, _, error = call(benchmark, *words)
    assert code == 2
    assert re.search(r"--seconds=0.0: it must be above 0|--rounds=0: it must be at least 1", error)


def chosen(*words):
    values = absl_flags.FlagValues()
    benchmark.define(values, ["benchmark", *words])
    values(["benchmark", *words])
    settings = flags.read_dataclass(values, benchmark.Settings)
    return {recipe.name: recipe.batch_size for recipe in benchmark.chosen(values, settings)}


def test_by_default_recipes_are_timed_whose_data_are_there(tmp_path, monkeypatch):
    monkeypatch.delenv("DLCORE_DATA_DIR", raising=False)
    assert chosen() == {"lenet5_digits": 64, "resnet20_digits": 128}
    (tmp_path / "mnist").mkdir()
    known = ["lenet5_digits", "resnet20_digits", "mlp_mnist"]
    assert [*chosen(f"--data_dir={tmp_path}")] == known
    monkeypatch.setenv("DLCORE_DATA_DIR", str(tmp_path))
    assert [*chosen()] == known


def test_several_recipes_may_have_one_batch_size():
    words = ("--recipes=mlp_mnist,lenet5_digits", "--batch_size=32")
    assert chosen(*words) == {"mlp_mnist": 32, "lenet5_digits": 32}
    with pytest.raises(UsageError, match="lenet5_digits"):
        chosen("--recipes=mlp_mnist,lenet_digits")
