import dataclasses
import re

from dlcore import data
from experiments import benchmark, peers, recipes, session
from kernels import timing


def test_both_loops_are_timed_and_compared(call):
    code, output, _ = call(
        benchmark,
        "--recipe=lenet5_digits",
        "--model=softmax_regression",
        "--steps=20",
        "--rounds=1",
    )
    assert code == 0
    ratio = float(re.search(r"ratio\s+([\d.]+)", output)[1])
    milliseconds = [float(figure) for figure in re.findall(r"a step\s+([\d.]+)", output)]
    assert len(milliseconds) == 2
    assert min(milliseconds) > 0
    assert abs(ratio - milliseconds[0] / milliseconds[1]) < 0.02 * ratio + 0.01


def test_steps_of_two_implementations_are_compared(call, monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "WARM_UP", 2)
    (tmp_path / "fox.txt").write_text("the quick brown fox jumps over the lazy dog.\n" * 20)
    code, output, _ = call(
        benchmark,
        "--recipe=char_lstm_shakespeare",
        f"--data={tmp_path}",
        "--data.sequence_length=5",
        "--model.hidden=4",
        "--batch_size=8",
        "--against=xla",
        "--steps=2",
        "--rounds=1",
    )
    assert code == 0
    assert len(re.findall(r"a step\s+[\d.]+", output)) == 3
    bare, other = (
        float(re.search(rf"{name}, milliseconds a step\s+([\d.]+)", output)[1])
        for name in ("bare loop", "--kernels=xla")
    )
    ratio = float(re.search(r"its ratio to the bare loop\s+([\d.]+)", output)[1])
    assert abs(ratio - other / bare) < 0.02 * ratio + 0.01


def test_a_model_that_calls_no_kernel_is_compared_with_nothing(call):
    code, _, error = call(benchmark, "--recipe=lenet5_digits", "--against=xla")
    assert code == 2
    assert "--kernels=xla: --model=lenet5_modern calls no kernel" in error


def test_only_a_resnet_50_is_compared_with_pytorch(call):
    code, _, error = call(benchmark, "--recipe=lenet5_digits", "--torch=python")
    assert code == 2
    assert "--torch has a ResNet-50: --model=resnet50, not lenet5_modern" in error
    words = ("--recipe=resnet20_digits", "--model=resnet50", "--model.blocks=1,1,1,1")
    code, _, error = call(benchmark, *words, "--torch=python")
    assert code == 2
    assert "--torch has a ResNet-50: leave out --model.blocks" in error


def test_pytorch_gets_the_images_and_the_classes_of_the_recipe(monkeypatch):
    given = []
    monkeypatch.setattr(peers, "resnet50_seconds", lambda *words: given.append(words))
    recipe = dataclasses.replace(
        recipes.get("lenet5_digits"),
        model_options={"num_classes": 10, "dtype": "bfloat16"},
        batch_size=8,
    )
    digits = data.load("digits", None, {"resize": 20})
    prepared = session.Session(recipe, digits, program=None, plan=None)
    effort = timing.Effort(2, 3)
    benchmark.torch_seconds("python", prepared, effort)
    assert given == [("python", (8, 20, 20, 1), 10, "bfloat16", effort)]
