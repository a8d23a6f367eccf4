"""Warm starts: from a run, a file of weights, PyTorch's too, a needed run and an earlier phase."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from dlcore import data, torch_file, weights
from dlcore.errors import UsageError
from dlcore.train import Need, Phase, Run, Session, Settings
from tests import small
from tests.fixtures import cases, file_cases
from tests.guests.harness import CrashError, after_steps, assert_same_arrays, assert_same_run, crash

# What is taken over stays as it was; the rest is trained.
FROZEN = {"groups": "hidden0/.*:frozen", "num_epochs": 1}
RECIPE = small.recipe(name="warm", **FROZEN)
SOURCE = small.recipe(name="source", num_epochs=1, seed=5)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A trained network, of which only its recipe and its checkpoints are there."""
    directory = tmp_path_factory.mktemp("source") / "run"
    Session(SOURCE).run(directory)
    return Run(directory)


@pytest.fixture(scope="module")
def file(source, tmp_path_factory):
    """Its weights in a file."""
    path = tmp_path_factory.mktemp("weights") / "source.safetensors"
    weights.write(path, source.trained().variables)
    return path


@pytest.fixture(scope="module")
def session(file):
    """A training that starts from the file."""
    return Session(dataclasses.replace(RECIPE, start_from=str(file)), Settings(checkpoint_every=2))


def layer(trained):
    return trained.variables["params"]["hidden0"]


def assert_warm(session, directory, expected):
    """Of a training from those weights the frozen ones are as they were, and the others are not."""
    session.run(directory)
    after = session.trained(directory, "newest")
    assert_same_arrays(layer(after), expected["hidden0"])
    assert (after.variables["params"]["logits"]["kernel"] != expected["logits"]["kernel"]).all()
    # The first loss is that of a trained network.
    trained = Run(directory).metrics["train"]["loss"]
    assert np.isfinite(trained).all()


def test_from_a_file(session, source, tmp_path):
    assert_warm(session, tmp_path / "run", source.trained().variables["params"])


def test_from_a_run_whose_data_are_gone(source, tmp_path):
    copy = shutil.copytree(source.directory, tmp_path / "source")
    plain = json.loads((copy / "recipe.json").read_text())
    (copy / "recipe.json").write_text(json.dumps({**plain, "data": "gone"}))
    warm = Session(dataclasses.replace(RECIPE, start_from=str(copy)))
    assert_warm(warm, tmp_path / "run", source.trained().variables["params"])


def test_from_a_run_that_is_needed(source, tmp_path):
    warm = dataclasses.replace(RECIPE, needs={"teacher": Need(SOURCE)}, start_from="teacher")
    session = Session(warm)
    assert_warm(session, tmp_path / "run", source.trained().variables["params"])
    assert Run(tmp_path / "run" / "teacher").recipe == source.recipe


def test_from_an_earlier_phase_or_from_none(tmp_path):
    phases = (
        Phase("first", {"num_epochs": 1}),
        Phase("second", {"num_epochs": 1, "learning_rate": 0.5}),
        Phase("third", {**FROZEN, "start_from": "first"}),
        Phase("fourth", {**FROZEN, "start_from": ""}),
    )
    session = Session(small.recipe(phases=phases))
    session.run(tmp_path / "run")
    first, second, third, fourth = (
        layer(session.trained(tmp_path / "run", "best", phase.name)) for phase in phases
    )
    assert_same_arrays(third, first)
    assert (second["kernel"] != first["kernel"]).any()
    assert_same_arrays(fourth, session.prepared.program.initialize().params["hidden0"])


def test_where_averages_are_kept_they_begin_at_the_weights_and_the_optimizer_anew(source, tmp_path):
    changes = {"start_from": str(source.directory), "ema_decay": 0.5, "optimizer": "adam"}
    program = Session(dataclasses.replace(RECIPE, **changes)).prepared.program
    found = source.trained().variables
    state = program.initialize(weights.flatten(found))
    assert_same_arrays(state.params, found["params"])
    assert_same_arrays(state.average, {"params": found["params"]})
    fresh = program.initialize()
    assert_same_arrays(state.opt_state, fresh.opt_state)
    assert (fresh.params["hidden0"]["kernel"] != state.params["hidden0"]["kernel"]).all()
    # The two are donated to the step, one after the other.
    assert not {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state.params)} & {
        leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state.average)
    }


def test_the_weights_are_the_same_on_four_devices(file, source):
    recipe = dataclasses.replace(RECIPE, start_from=str(file))
    for layout in ("pmap", "data", "fsdp"):
        session = Session(recipe, Settings(parallelism=layout), jax.devices()[:4])
        program = session.prepared.program
        state = program.initialize(weights.read(file))
        expected = source.trained().variables["params"]
        assert_same_arrays(jax.device_get(state.params), jax.device_get(expected))
        shardings = jax.tree.map(lambda array: array.sharding, program.abstract_state.params)
        assert jax.tree.map(lambda array: array.sharding, state.params) == shardings


def test_a_mapping_says_what_is_read_from_where(source, tmp_path):
    renamed = {
        "params": {
            {"hidden0": "encoder", "logits": "old"}[name]: own
            for name, own in source.trained().variables["params"].items()
        }
    }
    path = tmp_path / "renamed.safetensors"
    weights.write(path, renamed)
    mapping = r"hidden0/(.*)<-encoder/\1 logits/.*<- <-old/.*"
    warm = dataclasses.replace(RECIPE, start_from=str(path), start_mapping=mapping)
    session = Session(warm)
    session.run(tmp_path / "run")
    assert_same_arrays(layer(session.trained(tmp_path / "run")), layer(source.trained()))


def test_a_training_that_has_begun_does_not_need_its_weights_again(file, tmp_path):
    copy = shutil.copy(file, tmp_path / "copy.safetensors")
    recipe = dataclasses.replace(RECIPE, start_from=str(copy))
    session = Session(recipe, Settings(checkpoint_every=2))
    session.run(tmp_path / "whole")
    with after_steps(4, crash), pytest.raises(CrashError):
        session.run(tmp_path / "run")
    copy.unlink()
    assert session.run(tmp_path / "run")["resumed"]
    assert_same_run(session, tmp_path / "run", Run(tmp_path / "whole"))
    # Nor does one that is complete.
    summary = Run(tmp_path / "run").summary
    assert session.run(tmp_path / "run") == summary


# A small VGG, for images of three channels.
VGG = {
    "imports": (__name__,),
    "model": "vgg11_bn",
    "model_options": file_cases.FILE_OPTIONS,
    "data": "small_colors",
}
VGG_FILE = str(cases.DIRECTORY / "vgg.pth")

data.register("small_colors", lambda name, options: colors(name, **dataclasses.asdict(options)))


def colors(name, **options):
    return dataclasses.replace(small.images(shape=(4, 4, 3), **options), name=name)


def test_from_pytorchs_file_of_a_torchvision_network_with_a_new_head(tmp_path):
    recipe = small.recipe(
        **VGG,
        start_from=VGG_FILE,
        start_mapping="torchvision logits/.*<- <-logits/.*",
        groups="(conv|hidden).*:frozen",
        num_epochs=1,
    )
    session = Session(recipe)
    session.run(tmp_path / "run")
    trained = session.trained(tmp_path / "run", "newest").variables["params"]
    file = torch_file.read(recipe.start_from)
    assert file["classifier.3.weight"].shape == (7, 5)
    assert trained["logits"]["kernel"].shape == (5, 3)
    start = session.prepared.program.initialize()
    assert (trained["logits"]["kernel"] != start.params["logits"]["kernel"]).any()
    kernel = file["features.4.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(trained["conv2_1"]["kernel"], kernel)
    np.testing.assert_array_equal(trained["conv2_1"]["conv_bias"], file["features.4.bias"])
    np.testing.assert_array_equal(trained["conv2_1"]["scale"], file["features.5.weight"])
    hidden = trained["hidden0"]["kernel"].reshape(2, 2, 6, 5)
    there = file["classifier.0.weight"].reshape(5, 6, 2, 2)
    np.testing.assert_array_equal(hidden, there.transpose(2, 3, 1, 0))


# What is refused before any work.


def broken(directory):
    for path in (directory / "checkpoints").glob("[0-9]*/state/_METADATA"):
        path.write_bytes(b"")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start_from": "{tmp}/no.safetensors"}, "no.safetensors does not exist: name a"),
        ({"start_from": "{tmp}/text.safetensors"}, "text.safetensors is damaged, or not a"),
        ({"start_from": "{tmp}/nowhere"}, "start_from={tmp}/nowhere: there is no such directory"),
        ({"start_from": "{tmp}/empty"}, "start_from={tmp}/empty: {tmp}/empty is no run directory"),
        ({"start_from": "{tmp}/untrained"}, "no checkpoint in {tmp}/untrained/checkpoints: train"),
        ({"start_from": "{tmp}/broken"}, "no checkpoint in {tmp}/broken/checkpoints: train"),
        ({"start_from": "{tmp}/old"}, "{tmp}/old: a run of dlcore before 0.2 cannot be read by"),
        (
            {"start_from": "{source}", "model_options": {"hidden": (5,)}},
            "start_from: the weights do not fit the model; words in start_mapping can mend it",
        ),
        (
            {"start_from": "{source}", "start_mapping": "hidden7/.*<-"},
            "start_mapping=hidden7/.*<-: it matches nothing in the model",
        ),
        (
            {"start_from": "{source}", "start_mapping": "hidden0"},
            "start_mapping=hidden0: write TARGET<-SOURCE",
        ),
        ({"start_from": "{tmp}/no.pth"}, "no.pth does not exist: name a file of weights"),
        ({"start_from": "{tmp}/text.pt"}, "text.pt is not a plain state dict of PyTorch"),
        (
            {"start_from": "{source}", "start_mapping": "torchvision hidden0/.*<-"},
            "torchvision has no network with the layers of mlp: it has alexnet_one_tower, ",
        ),
        (
            {**VGG, "start_from": "{source}", "start_mapping": "torchvision"},
            "the weights have no name of torchvision's vgg11_bn, such as ",
        ),
        (
            {**VGG, "start_from": VGG_FILE, "start_mapping": "torchvision"},
            "logits/bias is 3 here and 7 there",
        ),
        (
            {**VGG, "start_from": VGG_FILE, "start_mapping": "logits/.*<- torchvision"},
            f"start_from={VGG_FILE}: the names are torchvision's: the first word of start_mapping",
        ),
        (
            {"needs": {"teacher": Need(SOURCE)}, "start_from": "student"},
            "start_from=student: there",
        ),
    ],
)
def test_weights_that_cannot_be_taken_are_refused_in_one_line_and_leave_nothing(
    changes, message, source, tmp_path
):
    for name in ("text.safetensors", "text.pt"):
        (tmp_path / name).write_text("no weights")
    (tmp_path / "empty").mkdir()
    for name in ("untrained", "broken", "old"):
        shutil.copytree(source.directory, tmp_path / name)
    shutil.rmtree(tmp_path / "untrained" / "checkpoints")
    broken(tmp_path / "broken")
    plain = json.loads((tmp_path / "old" / "recipe.json").read_text())
    del plain["version"]
    (tmp_path / "old" / "recipe.json").write_text(json.dumps(plain))
    places = {"tmp": tmp_path, "source": source.directory}
    if "{" in changes["start_from"]:
        changes = {**changes, "start_from": changes["start_from"].format(**places)}
    with pytest.raises(UsageError) as error:
        Session(dataclasses.replace(RECIPE, **changes)).run(tmp_path / "run")
    assert message.format(**places) in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()
