import re

from experiments import benchmark


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
