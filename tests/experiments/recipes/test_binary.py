"""A folder of one's own images with two classes is told apart."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.experiments.conftest import launch


@pytest.mark.slow
def test_a_folder_of_two_classes_is_learned_and_judged_by_its_curve(tmp_path):
    rng = np.random.default_rng(0)
    for number, name in enumerate(("cactus", "kitten")):
        (tmp_path / "own" / name).mkdir(parents=True)
        for index in range(40):
            # Light from one side or from the other.
            pixels = rng.integers(0, 120, (16, 16)) + number * np.arange(0, 128, 8)
            picture = Image.fromarray(pixels.astype(np.uint8))
            picture.save(tmp_path / "own" / name / f"{index}.png")
    words = ("--recipe=face_or_not", f"--data={tmp_path / 'own'}", "--num_epochs=10")
    directory = launch(tmp_path / "run", *words)
    test = json.loads((directory / "summary.json").read_text())["test"]
    assert test["area_under_curve"] >= 0.95
    assert test.keys() >= {"accuracy", "precision", "recall", "best_threshold"}
    assert {path.name for path in (directory / "plots").iterdir()} >= {"roc.png"}
