import dataclasses
import json
import locale
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from dlcore import data
from dlcore.data.features import ClassLabel, Numbers, Tags
from dlcore.errors import UsageError
from dlcore.train import Recipe, Run, Session
from experiments import evaluate, export, predict


@pytest.fixture
def photo(tmp_path, digits_run):
    """A file of a test digit that the model is surest of, with its class."""
    run = Run(digits_run)
    outputs = run.arrays("test_outputs")
    right = outputs["label"] == outputs["prediction"]
    surest = int((outputs["probability"].max(1) * right).argmax())
    batches = run.dataset.evaluation_batches("test", len(outputs["label"]))
    image = next(batches)["image"][surest, :, :, 0]
    path = tmp_path / "digit.png"
    # Another size and a color file: one's own pictures are not the training set's.
    Image.fromarray((image * 255).astype(np.uint8)).convert("RGB").resize((90, 90)).save(path)
    return path, int(outputs["label"][surest])


def test_an_image_of_any_size_and_color_is_classified(call, digits_run, photo):
    path, label = photo
    code, output, _ = call(predict, f"--workdir={digits_run}", path)
    assert code == 0
    assert output.startswith(f"{path}: {label} ")


def test_dark_strokes_on_light_paper_are_inverted_on_request(call, digits_run, photo, tmp_path):
    path, label = photo
    negative = tmp_path / "negative.png"
    Image.fromarray(255 - np.asarray(Image.open(path))).save(negative)
    _, output, _ = call(predict, f"--workdir={digits_run}", "--invert", negative)
    _, upright, _ = call(predict, f"--workdir={digits_run}", path)
    assert output.partition(": ")[2] == upright.partition(": ")[2]
    assert output.startswith(f"{negative}: {label} ")


def test_where_the_data_are_gone_answers_stay_and_scores_need_to_be_told_where_they_lie(
    call, digits_run, photo, tmp_path
):
    path, label = photo
    copy = shutil.copytree(digits_run, tmp_path / "copy")
    recipe = json.loads((copy / "recipe.json").read_text())
    (copy / "recipe.json").write_text(json.dumps(recipe | {"data": "/gone/pictures"}))
    code, output, _ = call(predict, f"--workdir={copy}", path)
    assert code == 0
    assert output == call(predict, f"--workdir={digits_run}", path)[1]
    assert output.startswith(f"{path}: {label} ")
    assert call(export, f"--workdir={copy}", "--format=safetensors")[0] == 0
    code, _, errors = call(evaluate, f"--workdir={copy}")
    told = "error: --data=/gone/pictures: there is no such file or folder: name one that exists\n"
    assert (code, errors) == (2, told)
    _, scores, _ = call(evaluate, f"--workdir={copy}", "--data=digits")
    assert scores == call(evaluate, f"--workdir={digits_run}")[1]
    code, _, errors = call(evaluate, f"--workdir={copy}", "--data=iris")
    assert code == 2
    assert errors.count("\n") == 1


def test_several_files_get_a_line_each(call, digits_run, photo):
    path, _ = photo
    _, output, _ = call(predict, f"--workdir={digits_run}", path, path)
    assert len(output.splitlines()) == 2


def test_tags_and_numbers_are_answers_too():
    assert predict.worded(Tags(("a", "b", "c", "d")), np.array([0.1, 0.9, 0.5, 0.0])) == (
        "b 90.0%, c 50.0%, a 10.0%"
    )
    assert predict.worded(Numbers(("x", "y")), np.array([-123.456, 0.25])) == "x -123.5, y 0.25"


def test_what_is_predicted_has_to_be_one_feature():
    assert isinstance(predict.answers(data.load("digits_segments")), Tags)
    both = {"label": ClassLabel(("a",)), "numbers": Numbers(("n",))}
    arrays = {"label": np.zeros(9, int), "numbers": np.zeros((9, 1))}
    with pytest.raises(UsageError, match="arrays has 2 features of classes, tags or numbers"):
        predict.answers(data.from_arrays(both, {"train": arrays}))


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ((), "no file is named"),
        (("missing.png",), "missing.png is not a file"),
        ((__file__,), "cannot read image"),
    ],
)
def test_bad_files_are_named_in_one_line(call, digits_run, words, named):
    code, _, errors = call(predict, f"--workdir={digits_run}", *words)
    assert code == 2
    assert named in errors
    assert "Traceback" not in errors


def test_a_prompt_is_read_as_training_reads_texts(call, digits_run, tmp_path, monkeypatch):
    prompt = tmp_path / "prompt.txt"
    prompt.write_bytes(b"\xef\xbb\xbfna\xc3\xafve")
    # Any trained model will do where nothing is continued.
    monkeypatch.setattr(predict, "Continues", object)
    monkeypatch.setattr(predict, "continue_text", lambda trained, key, prompt, *_: ascii(prompt))
    # What is not ASCII decodes to something else, or not at all, in another locale.
    monkeypatch.setattr(locale, "getencoding", lambda: "latin-1")
    _, output, _ = call(predict, f"--workdir={digits_run}", prompt)
    assert output == "'na\\xefve'\n"
    prompt.write_bytes(b"na\xefve")
    code, _, errors = call(predict, f"--workdir={digits_run}", prompt)
    assert code == 2
    assert f"{prompt} is no UTF-8 text: byte 2 is 0xef" in errors


def test_a_text_is_classified_in_the_vocabulary_of_the_training(call, tmp_path):
    for name, words in (("dull", "long slow"), ("fine", "warm bright")):
        (tmp_path / "texts" / name).mkdir(parents=True)
        for number in range(10):
            (tmp_path / "texts" / name / f"{number}.txt").write_text(f"{words} film {number}")
    recipe = Recipe(
        name="films",
        task="sequence_classification",
        model="bag_of_words",
        data=str(tmp_path / "texts"),
        optimizer="adam",
        learning_rate=0.1,
        batch_size=8,
        num_epochs=10,
    )
    Session(recipe).run(tmp_path / "run")
    # What was recorded of the data is enough.
    (tmp_path / "texts").rename(tmp_path / "elsewhere")
    own = tmp_path / "own.txt"
    for text, name in ((b"\xef\xbb\xbfBRIGHT and\r\nwarm", "fine"), (b"slow, slow", "dull")):
        own.write_bytes(text)
        code, output, _ = call(predict, f"--workdir={tmp_path / 'run'}", own)
        assert code == 0
        assert output.startswith(f"{own}: {name} ")


def test_files_are_answered_in_batches_of_which_one_is_read_at_a_time(digits_run):
    trained = dataclasses.replace(Run(digits_run).trained(), batch_size=4)
    images = trained.dataset.example_batch(10)["image"]
    read = []

    def reading():
        for number, image in enumerate(images):
            read.append(number)
            yield {"image": image}

    answers = predict.predict(trained, reading())
    first = next(answers)
    assert read == [0, 1, 2, 3]
    found = np.stack([first, *answers])
    batch = trained.dataset.transform({"image": images}, None, False)
    expected = jax.jit(trained.learner.predict)(trained.variables, batch)
    np.testing.assert_allclose(found, expected, atol=1e-6)
