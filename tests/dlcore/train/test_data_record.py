"""A run knows its data: it goes on and is judged with these alone, wherever they lie."""

import dataclasses
import json
import os
import pathlib
import re
import shutil

import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest

from dlcore import models
from dlcore.errors import UsageError
from dlcore.train import Need, Phase, Run, Session, Settings, data_record
from dlcore.train.data_record import PhaseData
from tests import small

CLASSES = ("cat", "dog", "eel")


def write_images(folder: pathlib.Path) -> None:
    rng = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for index in range(24):
            pixels = rng.integers(0, 80, (4, 4)) + 60 * number
            image = PIL.Image.fromarray(pixels.astype(np.uint8))
            image.save(folder / name / f"{index:02}.png")


def recipe_of(folder: pathlib.Path | str, **changes):
    fields = {"data": str(folder), "data_options": {}, "num_epochs": 1, "log_every": 2}
    return small.recipe(**fields | changes)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A folder with images and a run that was trained on them: look, do not touch."""
    place = tmp_path_factory.mktemp("original")
    write_images(place / "pics")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        Session(recipe_of("pics")).run("run")
    return place


@pytest.fixture
def place(original, tmp_path):
    """A copy of both, newly written, elsewhere."""
    shutil.copytree(original, tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "pics").rglob("*"):
        os.utime(path, (1, 1))
    return tmp_path


def test_a_run_says_what_it_was_trained_on_and_where_whatever_the_directory(original):
    record = json.loads((original / "run" / "data.json").read_text())
    assert record["features"]["label"] == {"kind": "ClassLabel", "names": list(CLASSES)}
    assert sum(record["counts"].values()) == 72
    assert record["statistics"]["image"].keys() == {"mean", "standard_deviation"}
    assert record["fingerprints"].keys() == {"train", "validation", "test"}
    assert str(original) not in json.dumps(record)
    assert Run(original / "run").recipe.data == str(original / "pics")


def rename_class(folder):
    (folder / "dog").rename(folder / "hound")


def add_class(folder):
    shutil.copytree(folder / "dog", folder / "fox")


def add_image(folder):
    shutil.copy(folder / "dog" / "00.png", folder / "dog" / "new.png")


def exchange_image(folder):
    shutil.copy(folder / "dog" / "00.png", folder / "eel" / "00.png")


def make_larger(folder):
    for path in folder.rglob("*.png"):
        PIL.Image.open(path).resize((5, 5)).save(path)


CHANGES = {
    rename_class: "the names of 'label': cat, dog, eel when .*, cat, eel, hound now",
    add_class: "the names of 'label': cat, dog, eel when .*, cat, dog, eel, fox now",
    add_image: r"examples of (train|test|validation): \d+ when .*, \d+ now",
    exchange_image: r"examples of \w+: \d+ when .*, as many others now",
    make_larger: "the shape of 'image': 4, 4, 1 when .*, 5, 5, 1 now",
}


def test_data_that_changed_are_refused_wherever_a_run_is_opened_and_it_stays_as_it_was(place):
    directory = place / "run"
    # As if it were still to be finished.
    (directory / "summary.json").unlink()
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    for number, (damage, told) in enumerate(CHANGES.items()):
        folder = place / f"pics{number}"
        shutil.copytree(place / "pics", folder)
        damage(folder)
        opened = {
            "training": lambda folder=folder: Session(recipe_of(folder)).run(directory),
            "trained": lambda folder=folder: Session(recipe_of(folder)).trained(directory),
            "evaluation": lambda folder=folder: Run(directory, data=str(folder)).evaluate("test"),
            "dataset": lambda folder=folder: Run(directory, data=str(folder)).dataset,
            "model": lambda folder=folder: Run(directory, data=str(folder)).trained(),
        }
        for name, use in opened.items():
            with pytest.raises(UsageError) as error:
                use()
            line = rf"data={folder}: {told}: restore the data, give data=PLACE if .*"
            assert re.fullmatch(line, str(error.value)), (name, str(error.value))
    assert before == {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_the_same_data_in_another_place_serve_under_any_name(place, monkeypatch):
    directory = place / "run"
    summary = Run(directory).summary
    (place / "pics").rename(place / "moved")
    inside = place / "inside"
    inside.mkdir()
    monkeypatch.chdir(inside)
    run = Run("../run", data="../moved")
    assert run.evaluate("test")["loss"] == pytest.approx(summary["test"]["loss"])
    assert run.dataset.num_examples("test") == 14
    assert Session(recipe_of("../moved")).run("../run") == summary
    with pytest.raises(UsageError, match="data=.*pics, this one has data=digits"):
        Session(recipe_of("digits")).run("../run")


def test_new_inputs_are_answered_without_the_data(original, place):
    batch = {"image": jnp.asarray(Run(original / "run").dataset.example_batch(5)["image"])}
    before = Run(original / "run").trained()
    shutil.rmtree(place / "pics")
    # The path of the original is another run's.
    again = Run(place / "run", data=str(place / "pics")).answering()
    assert again.dataset.features["label"].names == CLASSES
    answers = [
        one.learner.predict(one.variables, one.dataset.transform(batch, None, False))
        for one in (before, again)
    ]
    np.testing.assert_array_equal(*answers)
    with pytest.raises(UsageError, match="was not opened: only new inputs"):
        again.rows(again.learner.predict, "test")


def test_where_the_data_lay_may_be_closed_to_who_goes_on_or_asks_for_answers(place):
    directory = place / "run"
    summary = Run(directory).summary
    path = directory / "recipe.json"
    recipe = json.loads(path.read_text())
    # As a folder that may not be entered, it cannot even be looked at.
    path.write_text(json.dumps(recipe | {"data": str(path / "pics")}))
    assert Run(directory).answering().dataset.features["label"].names == CLASSES
    assert Run(directory, data=str(place / "pics")).evaluate("test")["loss"] == pytest.approx(
        summary["test"]["loss"]
    )
    assert Session(recipe_of(place / "pics")).run(directory) == summary


def test_the_data_of_a_phase_or_of_a_needed_run_may_move_too(place):
    shutil.copytree(place / "pics", place / "first")
    shutil.copytree(place / "pics", place / "judge")

    def recipe(*names):
        first, last, judge = (str(place / name) for name in names)
        needed = recipe_of(judge)
        phases = (Phase("a", {"data": first}), Phase("b", {"data": last}))
        return small.recipe(num_epochs=1, phases=phases, needs={"judge": Need(needed)})

    directory = place / "phased"
    summary = Session(recipe("first", "pics", "judge")).run(directory)
    for name in ("first", "pics", "judge"):
        (place / name).rename(place / f"new {name}")
    run = Run(directory, data=str(place / "new pics"))
    assert run.evaluate("test")["loss"] == pytest.approx(summary["test"]["loss"])
    moved = recipe("new first", "new pics", "new judge")
    assert Session(moved).run(directory) == summary
    exchange_image(place / "new first")
    with pytest.raises(UsageError, match="data=.*new first: examples of .*as many others now"):
        Session(moved).run(directory)


def test_a_part_that_follows_what_is_not_recorded_has_the_data_opened(original, monkeypatch):
    monkeypatch.setattr(models, "defaults", lambda name: {"frequencies": ()})
    data = PhaseData(recipe_of(original / "pics"), Settings(), pathlib.PurePath(), original / "run")
    assert sum(data.dataset.facts["frequencies"]) > 40
    assert min(data.dataset.facts["frequencies"]) > 5


def test_a_run_from_before_there_was_a_record_gets_one(place, monkeypatch, caplog):
    directory = place / "run"
    record = json.loads((directory / "data.json").read_text())
    (directory / "data.json").unlink()
    recipe = json.loads((directory / "recipe.json").read_text())
    (directory / "recipe.json").write_text(json.dumps(recipe | {"data": "pics"}))
    monkeypatch.chdir(place)
    summary = Run("run").summary
    assert Run("run").evaluate("test")["loss"] == pytest.approx(summary["test"]["loss"])
    assert Run("run").answering().dataset.num_examples("test") == 14
    assert not (directory / "data.json").exists()
    # Nothing says that data in another place are the same.
    shutil.copytree("pics", "other")
    with pytest.raises(UsageError, match=r"data=pics, this one has data=/.*/other:"):
        Session(recipe_of("other")).run("run")
    with caplog.at_level("WARNING", "dlcore"):
        assert Session(recipe_of("pics")).run("run") == summary
    assert caplog.messages == ["run: the data of this run were not recorded: they are now"]
    assert json.loads((directory / "data.json").read_text()) == record


def test_a_damaged_record_is_refused_in_one_line(place):
    path = place / "run" / "data.json"
    record = json.loads(path.read_text())
    for content in ("{", "[]", "{}", *(json.dumps(record | {name: 1}) for name in record)):
        path.write_text(content)
        for use in (Run(place / "run").answering, lambda: Run(place / "run").evaluate("test")):
            with pytest.raises(UsageError, match=f"^{path} is damaged: [^\n]*$"):
                use()
    path.write_text(json.dumps(record | {"counts": {"train": -1}}))
    with pytest.raises(UsageError, match="is damaged: it describes no data"):
        data_record.read(path)


def test_a_letter_of_a_text_is_noticed(tmp_path):
    words = "the quick brown fox jumps over the lazy dog. " * 40
    file = tmp_path / "fox.txt"
    recipe = recipe_of(file, task="language_model", model="char_lstm", evaluators="")

    def data_of(written):
        file.write_text(written)
        return PhaseData(recipe, Settings(), pathlib.PurePath())

    data_of(words).keep(tmp_path)
    data_of(words).check(tmp_path)
    with pytest.raises(UsageError, match=f"^data={file}: examples of train: .* as many others now"):
        data_of(words.replace("fox", "xof", 1)).check(tmp_path)
    with pytest.raises(UsageError, match="the vocabulary of 'targets': 28, with 'q' when"):
        data_of(words.replace("q", "Q")).check(tmp_path)


def test_paths_are_made_absolute_wherever_a_recipe_has_them_and_names_stay(tmp_path, monkeypatch):
    write_images(tmp_path / "pics")
    monkeypatch.chdir(tmp_path)
    # A folder of that name does not hide what is bundled.
    (tmp_path / "digits").mkdir()
    judge = small.recipe(data="zip:pics,digits")
    recipe = recipe_of(
        "pics",
        needs={"judge": Need(judge)},
        phases=(Phase("a", {"data": "digits"}), Phase("b", {"data": "pics"}), Phase("c", {})),
    )
    located = data_record.located(recipe, Settings())
    pics = str(tmp_path / "pics")
    assert located.data == pics
    assert located.needs["judge"].recipe.data == f"zip:{pics},digits"
    assert [phase.overrides.get("data") for phase in located.phases] == ["digits", pics, None]
    missing = dataclasses.replace(recipe, data="gone", needs={}, phases=())
    assert data_record.located(missing, Settings()) == missing
    moved = data_record.moved(located, "/new")
    assert [phase.overrides.get("data") for phase in moved.phases] == ["digits", "/new", None]
    assert moved.needs["judge"].recipe.data == f"zip:{pics},digits"
