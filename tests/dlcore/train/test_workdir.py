"""The run directory belongs to one recipe, and to one program at a time."""

import dataclasses
import json
import pathlib

import pytest

from dlcore.errors import TrainingError, UsageError
from dlcore.train import Need, Phase, Recipe, Settings, workdir

RECIPE = Recipe(
    name="lenet5_digits",
    model="lenet5_modern",
    data="digits",
    data_options={"resize": 28},
    learning_rate=0.1,
    num_epochs=20,
    needs={"judge": Need(Recipe(name="softmax", model="mlp", data="digits", learning_rate=0.1))},
    phases=(Phase("start", {"learning_rate": 0.3}), Phase("end", {"num_epochs": 2})),
)


def test_a_new_directory_is_made_and_claimed_for_its_recipe(tmp_path):
    directory = tmp_path / "some" / "run"
    with workdir.claim(directory, RECIPE):
        assert workdir.read_recipe(directory) == RECIPE


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
        ({"name": "other"}, "recipe=lenet5_digits, this one has recipe=other"),
        ({"seed": 1}, "seed=0, this one has seed=1:"),
        ({"seed": 1, "num_epochs": 3}, r"num_epochs=20, .* num_epochs=3 \(and 1 more\)"),
        ({"data_options": {"resize": 32}}, "data.resize=28, this one has data.resize=32"),
        ({"model_options": {"width": 2}}, "model.width=None, .* model.width=2"),
        (
            {"needs": {"judge": Need(dataclasses.replace(RECIPE, needs={}, name="other"))}},
            "needs.judge=softmax, this one has needs.judge=other",
        ),
        ({"needs": {}}, "needs.judge=softmax, this one has needs.judge=None"),
        (
            {"phases": (RECIPE.phases[0], Phase("end", {"num_epochs": 3}))},
            "phase.end.num_epochs=2, this one has phase.end.num_epochs=3",
        ),
        ({"phases": RECIPE.phases[::-1]}, r"phases=\['start', 'end'\], .*\['end', 'start'\]"),
    ],
)
def test_another_recipe_is_refused_by_the_first_field_that_differs(tmp_path, change, message):
    with workdir.claim(tmp_path, RECIPE):
        pass
    other = workdir.claim(tmp_path, dataclasses.replace(RECIPE, **change))
    with pytest.raises(UsageError, match=message), other:
        pass


def test_a_run_of_a_model_that_is_not_here_is_refused_by_that_model(tmp_path):
    plain = {**RECIPE.to_json(), "model": "of_ones_own"}
    (tmp_path / "recipe.json").write_text(json.dumps(plain))
    claimed = workdir.claim(tmp_path, RECIPE)
    told = "model=of_ones_own, this one has model=lenet5_modern"
    with pytest.raises(UsageError, match=told), claimed:
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
        assert workdir.read_recipe(tmp_path) == RECIPE


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    claimed = workdir.claim(tmp_path / "file" / "run", RECIPE)
    with pytest.raises(UsageError, match=r"file/run: a part of it is a file"), claimed:
        pass


def test_options_that_are_left_open_have_their_defaults(tmp_path):
    with workdir.claim(tmp_path, RECIPE):
        before = (tmp_path / "recipe.json").read_bytes()
    closed = {"resize": 28, "pad": 0, "normalize": "mean_std"}
    with workdir.claim(tmp_path, dataclasses.replace(RECIPE, data_options=closed)):
        assert (tmp_path / "recipe.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": None}, "of dlcore before 0.2 .*: use dlcore 0.1, or train anew"),
        ({"flux": 1}, "of another state of dlcore .* not know flux: use another state of dlcore"),
        ({"version": "7.0", "flux": 1}, "of dlcore 7.0 .*: use dlcore 7.0, or train anew"),
    ],
)
def test_a_run_of_another_version_is_named(tmp_path, change, message):
    plain = {**RECIPE.to_json(), **change}
    (tmp_path / "recipe.json").write_text(json.dumps(plain))
    with pytest.raises(UsageError, match=f"^{tmp_path}: a run .*{message}"):
        workdir.read_recipe(tmp_path)
    claimed = workdir.claim(tmp_path, RECIPE)
    with pytest.raises(UsageError, match=message), claimed:
        pass


def test_a_run_from_before_a_field_goes_on_with_its_default(tmp_path):
    earlier = RECIPE.to_json()
    del earlier["plateau_patience"], earlier["data_options"]["resize"]
    recipe = dataclasses.replace(RECIPE, data_options={})
    (tmp_path / "recipe.json").write_text(json.dumps(earlier))
    with workdir.claim(tmp_path, recipe):
        pass
    other = workdir.claim(tmp_path, dataclasses.replace(recipe, plateau_patience=3))
    with pytest.raises(UsageError, match="plateau_patience=0, this one has"), other:
        pass


def test_a_run_of_a_recipe_that_is_gone_can_still_be_read(tmp_path):
    (tmp_path / "recipe.json").write_text(json.dumps({**RECIPE.to_json(), "name": "gone"}))
    recipe = workdir.read_recipe(tmp_path)
    assert dataclasses.replace(recipe, name=RECIPE.name) == RECIPE


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


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Recipe)])
@pytest.mark.parametrize("value", [{"a": 1}, [1, "two"], "text", 0.25, True, None])
def test_a_field_of_another_type_is_refused_by_its_name(tmp_path, field, value):
    recipe = dataclasses.replace(RECIPE, needs={"judge": Need(RECIPE)})
    plain = {**recipe.to_json(), field: value}
    (tmp_path / "recipe.json").write_text(json.dumps(plain))
    kind = type(getattr(recipe, field))
    options = kind is dict and field != "needs" and isinstance(value, dict)
    if type(value) is kind is not dict or options or (field, value) == ("expected", None):
        assert getattr(workdir.read_recipe(tmp_path), field) == value
    else:
        named = ".*" if field == "needs" else rf".*\$\.{field}\b"
        with pytest.raises(UsageError, match=f"^{tmp_path}: the recipe is damaged: {named}[^\n]*$"):
            workdir.read_recipe(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"null", b"[1]", b"\xff", b"[" * 2000, b'{"a":' * 2000]
)
def test_a_damaged_file_is_named(tmp_path, content):
    (tmp_path / "recipe.json").write_bytes(content)
    with pytest.raises(UsageError, match=r"recipe.json is damaged: it holds no JSON object"):
        workdir.read_json(tmp_path / "recipe.json")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"is no run directory: recipe.json is missing"):
        workdir.read_json(tmp_path / "recipe.json")


def test_a_name_may_begin_with_a_tilde(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert workdir.named("~/runs") == tmp_path / "runs"


def test_the_directory_above_counts_where_checkpoints_could_not_be_read_back(monkeypatch, tmp_path):
    (tmp_path / "[old]").mkdir()
    monkeypatch.chdir(tmp_path / "[old]")
    with pytest.raises(UsageError, match=r"workdir=run: checkpoints below \[old\] could not be"):
        workdir.named("run")


@pytest.mark.parametrize("data", ["{folder}", "zip:digits,{folder}"])
def test_what_is_written_may_not_become_a_part_of_the_data(tmp_path, data):
    folder = tmp_path / "images"
    folder.mkdir()
    (tmp_path / "link").symlink_to(folder)
    recipe = dataclasses.replace(RECIPE, data=data.format(folder=folder))
    for inside in (folder, folder / "runs" / "a", tmp_path / "link" / "a"):
        with pytest.raises(UsageError, match=f"workdir={inside} lies in the data, {folder}: name"):
            workdir.check_apart(inside, recipe, Settings())
    for outside in (tmp_path / "a", tmp_path / "images2"):
        workdir.check_apart(outside, recipe, Settings())
    workdir.check_apart(folder, RECIPE, Settings())
