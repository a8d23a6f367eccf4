"""A recipe's step compiled for machines that are not there, and what is said of it."""

import re

import jax
import pytest

from dlcore.errors import UsageError
from experiments import compile as program
from kernels import aot

SOFTMAX = (
    "--recipe=lenet5_digits",
    "--model=softmax_regression",
    "--data.resize=0",
    "--batch_size=64",
)
# The parameters of the softmax regression on the digits, 64 x 10 and 10, in float32.
PARAMETERS = 4 * 650


@pytest.fixture
def compiled(call):
    """`compiled(target, words)`: what is printed for it, by parallelism; under "" of all.

    With `code` that is the exit code it has to end with.
    """

    def run(target, *words, recipe=SOFTMAX, code=0):
        if reason := aot.missing(aot.target(target).chip.platform):
            pytest.skip(reason)
        found, output, errors = call(program, *recipe, f"--target={target}", *words)
        assert found == code, errors
        head, *rest = re.split(r"\n--parallelism=(\w+)\n", output)
        blocks = {"": head, **dict(zip(rest[::2], rest[1::2], strict=True))}
        return {name: rows(block) for name, block in blocks.items()}

    return run


def rows(block):
    """Names and values of a table."""
    return dict(
        re.split(r"\s{2,}", line.strip(), maxsplit=1) for line in block.splitlines() if line
    )


def number(text):
    return int(text.replace(",", ""))


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("tpu:v5e:2x2", "4 x TPU v5 lite"),
        pytest.param("gpu:h200:1x8", "8 x NVIDIA H200", marks=pytest.mark.slow),
    ],
)
def test_a_step_is_compiled_and_its_collectives_are_told(compiled, target, kind):
    found = compiled(target, "--parallelism=data")
    assert list(found) == ["", "data"]
    assert found[""]["machine"].startswith(kind)
    assert found[""]["batch size"] == "64"
    # Two matrix products over all examples; the rest is elementwise.
    flops = number(
        found[""]["floating-point operations a step, of all devices (a loop's body once)"]
    )
    assert 2 * 2 * 64 * 640 < flops < 10**6
    assert "all-reduce" in found["data"]["collectives"]
    assert number(found["data"]["bytes a device"]) > PARAMETERS
    assert found["data"]["fits"] == "yes"


@pytest.mark.slow
def test_every_parallelism_that_the_task_supports_is_compiled(compiled):
    found = compiled("tpu:v5e:4x4")
    assert list(found) == ["", "jit", "pmap", "data", "fsdp"]
    assert found["jit"]["collectives"] == "none"
    assert "all-reduce" in found["pmap"]["collectives"]
    held = {name: number(found[name]["of state and batch"]) for name in ("jit", "pmap", "data")}
    assert held["jit"] > held["data"]
    assert all(found[name]["fits"] == "yes" for name in held)


@pytest.mark.slow
def test_a_parallelism_that_refuses_the_batch_says_so_among_the_others(compiled):
    found = compiled("tpu:v5e:2x2", "--batch_size=63")
    assert "batch_size=63 does not divide over 4 devices" in found["data"]["refused"]
    assert found["jit"]["fits"] == "yes"


@pytest.mark.slow
def test_a_step_that_fits_only_where_its_state_is_split_is_said_to(compiled):
    found = compiled("tpu:v5e:4x4", "--model=mlp", "--model.hidden=40000,40000")
    for name in ("jit", "pmap", "data"):
        assert found[name]["fits"].startswith("no: ")
        assert "Ran out of memory" in found[name]["fits"]
    assert found["fsdp"]["fits"] == "yes"


@pytest.mark.parametrize(
    ("jit", "code", "told"),
    [
        (UsageError("jit will not"), 2, "refused  jit will not"),
        (aot.DoesNotFitError("26 of 16 GiB"), 0, "fits  no: 26 of 16 GiB"),
    ],
)
def test_a_recipe_is_refused_when_every_parallelism_refuses_it(call, monkeypatch, jit, code, told):
    def compiled(recipe, settings, machine):
        raise jit if settings.parallelism == "jit" else UsageError("these will not")

    monkeypatch.setattr(aot, "missing", lambda platform: None)
    monkeypatch.setattr(aot.Target, "devices", jax.devices()[:1])
    monkeypatch.setattr(program, "compiled", compiled)
    found, output, errors = call(program, *SOFTMAX, "--target=tpu:v5e")
    assert found == code
    assert f"--parallelism=jit\n  {told}\n" in output
    assert output.count("refused  these will not") == 3
    assert errors.endswith("error: jit will not\n") == (code == 2)


@pytest.mark.slow
def test_the_kernels_that_are_named_are_found_in_the_step(compiled, tmp_path):
    (tmp_path / "fox.txt").write_text("the quick brown fox jumps over the lazy dog.\n" * 20)
    options = (f"--data={tmp_path}", "--data.sequence_length=8", "--batch_size=8")
    lstm = ("--recipe=char_lstm_shakespeare", *options)
    found = compiled("tpu:v5e:2x2", "--kernels=mosaic_tpu", recipe=lstm)
    # One of each for each of two layers.
    for name in ("jit", "pmap", "data"):
        assert found[name]["Pallas kernels"] == "2 lstm_forward, 2 lstm_backward"
        # Each of the four calls reads R, which is float32.
        moved = found[name]["bytes moved by its kernels (a loop's body once)"]
        assert number(moved) > 4 * 4 * 128 * 512
    assert found["fsdp"]["refused"].startswith("kernels=mosaic_tpu: under parallelism=fsdp")
    found = compiled("tpu:v5e", "--kernels=xla", "--parallelism=jit", recipe=lstm)
    assert found["jit"]["Pallas kernels"] == "none"
    found = compiled("gpu:h200", "--kernels=mosaic_gpu", "--parallelism=jit", recipe=lstm, code=2)
    assert "it takes bfloat16" in found["jit"]["refused"]


def test_what_does_not_fit_is_said_to_be_too_much():
    machine = aot.target("tpu:v5e")
    sizes = {"kernel_bytes": 0, "output_bytes": 0, "temporary_bytes": 0, "alias_bytes": 0}
    large = aot.Program((), {}, 0.0, 0.0, argument_bytes=machine.chip.memory + 1, **sizes)
    assert program.described(large, machine)["fits"] == "no: a device has 17,179,869,184 bytes"
    small = aot.Program((), {}, 0.0, 0.0, argument_bytes=machine.chip.memory, **sizes)
    assert program.described(small, machine)["fits"] == "yes"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--target=tpu:v5e",), "--recipe is missing"),
        (SOFTMAX, "--target is missing"),
        ((*SOFTMAX, "--target=v5e"), "--target: target 'v5e': it is tpu:CHIP"),
        ((*SOFTMAX, "--target=gpu:v5e"), "v5e is not a GPU"),
        ((*SOFTMAX, "--target=tpu:v5e:0x0"), "--target: target 'tpu:v5e:0x0': each number of 0x0"),
        ((*SOFTMAX, "--target=tpu:v5e", "--kernels=fast"), "--kernels=fast: it is auto, xla"),
        ((*SOFTMAX, "--target=tpu:v5e", "--kernels=xla"), "softmax_regression calls no kernel"),
        (
            (*SOFTMAX, "--target=tpu:v5e", "--parallelism=pipeline"),
            "--parallelism=pipeline: task classification supports jit, pmap, data, fsdp",
        ),
    ],
)
def test_bad_input_is_refused_by_name(call, monkeypatch, words, named):
    monkeypatch.setattr(aot, "missing", lambda platform: None)
    monkeypatch.setattr(aot.Target, "devices", jax.devices()[:1])
    code, _, errors = call(program, *words)
    assert code == 2
    assert "Traceback" not in errors
    assert named in errors.splitlines()[-1]


def test_a_topology_that_a_chip_has_not_is_refused(call):
    if reason := aot.missing("tpu"):
        pytest.skip(reason)
    code, _, errors = call(program, *SOFTMAX, "--target=tpu:v5e:3x5")
    assert code == 2
    assert "target 'tpu:v5e:3x5' is not available" in errors.splitlines()[-1]


def test_a_compiler_that_is_missing_is_named(call, monkeypatch):
    monkeypatch.setattr(aot, "missing", lambda platform: f"no compiler for {platform}")
    code, _, errors = call(program, *SOFTMAX, "--target=gpu:h200")
    assert code == 2
    assert errors.splitlines()[-1] == "error: --target=gpu:h200: no compiler for cuda"
