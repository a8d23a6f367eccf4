"""The run directory belongs to one recipe, and to one program at a time."""

import dataclasses
import json
import pathlib

import pytest

from dlcore.errors import TrainingError, UsageError
from experiments import recipes, workdir

RECIPE = dataclasses.replace(
    recipes.get("lenet5_digits"), num_epochs=20, data_options={"resize": 28}
)


def test_a_new_directory_is_made_and_claimed_for_its_recipe(tmp_path):
    directory = tmp_path / "some" / "run"
    with workdir.claim(directory, RECIPE):
        assert json.loads((directory / "recipe.json").read_text()) == json.loads(
            json.dumps(RECIPE.to_json())
        )
        assert workdir.read_recipe(directory).to_json() == RECIPE.to_json()


def test_a_claimed_directory_can_be_claimed_again_by_the_same_recipe(tmp_path):
    with workdir.claim(tmp_path, RECIPE):
        pass
    before = (tmp_path / "recipe.json").stat().st_mtime_ns
    with workdir.claim(tmp_path, RECIPE):
        assert (tmp_path / "recipe.json").stat().st_mtime_ns == before


def test_only_one_program_at_a_time_has_it(tmp_path):
    with workdir.claim(tmp_path, RECIPE):
        second = workdir.claim(tmp_path, RECIPE)
        with pytest.raises(UsageError, match="in use by another training"), second:
            pass
    with workdir.claim(tmp_path, RECIPE):
        pass


def test_it_is_free_again_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), workdir.claim(tmp_path, RECIPE):
        raise ZeroDivisionError
    with workdir.claim(tmp_path, RECIPE):
        pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "other"}, "--recipe=lenet5_digits, this command has --recipe=other"),
        ({"seed": 1}, "--seed=0, this command has --seed=1:"),
        ({"seed": 1, "num_epochs": 3}, r"--num_epochs=20, .* --num_epochs=3 \(and 1 more\)"),
        (
            {"data_options": {**RECIPE.data_options, "resize": 32}},
            "--data.resize=28, this command has --data.resize=32",
        ),
        ({"model_options": {"width": 2}}, "--model.width=None, .* --model.width=2"),
    ],
)
def test_another_recipe_is_refused_by_the_first_flag_that_differs(tmp_path, change, message):
    with workdir.claim(tmp_path, RECIPE):
        pass
    other = workdir.claim(tmp_path, dataclasses.replace(RECIPE, **change))
    with pytest.raises(UsageError, match=message), other:
        pass


def test_tuples_and_lists_are_the_same_option(tmp_path):
    recipe = dataclasses.replace(RECIPE, model_options={"hidden": (3, 4)})
    for _ in range(2):
        with workdir.claim(tmp_path, recipe):
            assert workdir.read_recipe(tmp_path).model_options == {"hidden": (3, 4)}


@pytest.mark.parametrize("left", [[], [".lock"], [".lock", "recipe.json.partial"]])
def test_what_a_program_leaves_that_is_killed_at_once_does_not_stand_in_the_way(tmp_path, left):
    for name in left:
        (tmp_path / name).write_text("")
    with workdir.claim(tmp_path, RECIPE):
        assert workdir.read_recipe(tmp_path).to_json() == RECIPE.to_json()


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    claimed = workdir.claim(tmp_path / "file" / "run", RECIPE)
    with pytest.raises(UsageError, match=r"file/run cannot be written: Not a directory"), claimed:
        pass


def test_a_recipe_of_another_version_is_named(tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps({**RECIPE.to_json(), "flux": 1}))
    with pytest.raises(UsageError, match="recipe.json is of another version: .*flux"):
        workdir.read_recipe(tmp_path)


def test_a_run_of_another_version_is_not_gone_on_with(tmp_path):
    of_old = RECIPE.to_json()
    del of_old["plateau_patience"]
    (tmp_path / "recipe.json").write_text(json.dumps(of_old))
    claimed = workdir.claim(tmp_path, RECIPE)
    with pytest.raises(UsageError, match="run of another version: .* --plateau_patience"), claimed:
        pass


def test_a_run_of_a_recipe_that_is_gone_can_still_be_read(tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps({**RECIPE.to_json(), "name": "gone"}))
    recipe = workdir.read_recipe(tmp_path)
    assert (recipe.name, recipe.expected) == ("gone", None)


def test_a_reader_finds_the_old_file_or_the_whole_new_one(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    workdir.write_json(path, {"step": 1})

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            workdir.write_json(path, {"step": 2})
    assert workdir.read_json(path) == {"step": 1}
    workdir.write_json(path, {"step": 3})
    assert workdir.read_json(path) == {"step": 3}
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "summary.json").mkdir()
    with pytest.raises(TrainingError, match=r"summary.json could not be written: Is a directory"):
        workdir.write_json(tmp_path / "summary.json", {})


@pytest.mark.parametrize("content", [b"", b"{", b"null", b"[1]", b"\xff"])
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "recipe.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"recipe.json is damaged: it holds no JSON object"):
        workdir.read_json(tmp_path / "recipe.json")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"is no run directory: recipe.json is missing"):
        workdir.read_json(tmp_path / "recipe.json")
