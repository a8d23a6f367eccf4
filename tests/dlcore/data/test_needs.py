"""A task's needs, found among a dataset's features."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlcore.data.features import (
    INPUTS,
    ClassLabel,
    Image,
    Numbers,
    Row,
    Segmentation,
    Series,
    Tags,
    Text,
    Tokens,
)
from dlcore.data.needs import match
from dlcore.errors import UsageError

IMAGE, LABEL, ROW = Image((4, 4, 1)), ClassLabel(("a", "b")), Row(("x", "y"))
CLASSIFIER = {"image": INPUTS, "label": (ClassLabel,)}


def found(needs, **features):
    return match(needs, features, "d")


def test_a_key_of_a_right_kind_is_taken():
    assert found(CLASSIFIER, image=IMAGE, row=ROW, label=LABEL) == {
        "image": "image",
        "label": "label",
    }


def test_the_only_feature_of_a_right_kind_is_renamed():
    assert found(CLASSIFIER, row=ROW, species=LABEL) == {"image": "row", "label": "species"}
    # What has the key but is of another kind does not stand in its way.
    assert found(CLASSIFIER, image=ROW, label=Numbers(("n",)), kind=LABEL) == {
        "image": "image",
        "label": "kind",
    }


def test_what_one_need_has_taken_is_free_for_no_other():
    needs = {"other": (Image,), "image": (Image,)}
    assert found(needs, image=IMAGE, photo=IMAGE) == {"other": "photo", "image": "image"}
    needs = {"target": (Segmentation, Image), "input": (Image,)}
    classes = Segmentation((), (4, 4))
    for features in ({"photo": IMAGE, "classes": classes}, {"classes": classes, "photo": IMAGE}):
        assert found(needs, **features) == {"target": "classes", "input": "photo"}


def test_a_text_will_do_for_tokens_where_there_are_none():
    needs = {"sequence": (Tokens, Series)}
    assert found(needs, text=Text(), label=LABEL) == {"sequence": "text"}
    tokens = Tokens("ab", 4)
    assert found(needs, text=Text(), symbols=tokens) == {"sequence": "symbols"}
    with pytest.raises(UsageError, match="has text, steps, each of which may be the 'sequence'"):
        found(needs, text=Text(), steps=Series((4,)))
    with pytest.raises(UsageError, match="needs 'sequence' .a series.: dataset 'd' has 'text'"):
        found({"sequence": (Series,)}, text=Text())


def test_no_need_takes_nothing():
    assert found({}, image=IMAGE) == {}


def test_more_than_one_that_would_do_are_named_with_what_settles_it():
    with pytest.raises(UsageError, match="dataset 'd' has photo, edges, each of which .* 'image'"
                       ' .*set features, as in features="image:photo"'):  # fmt: skip
        found(CLASSIFIER, photo=IMAGE, edges=IMAGE, label=LABEL)


def test_what_is_missing_is_told_with_what_there_is():
    with pytest.raises(UsageError) as refused:
        found(CLASSIFIER, row=ROW, numbers=Numbers(("n",)))
    assert str(refused.value) == (
        "the task needs 'label' (a class): dataset 'd' has 'row' (a row of numbers), 'numbers'"
        " (numbers to predict)"
    )
    with pytest.raises(UsageError, match=r"needs 'label' .a class. besides 'image': dataset 'd'"):
        found(CLASSIFIER, image=IMAGE)
    with pytest.raises(UsageError, match=r"the task needs 'image' .an image, a row .*, 'label' "):
        found(CLASSIFIER, text=Text())


FEATURES = st.dictionaries(
    st.sampled_from(["image", "label", "a", "b", "c"]),
    st.sampled_from([IMAGE, LABEL, ROW, Tags(("t",)), Text()]),
)


@given(FEATURES, st.randoms())
def test_the_answer_does_not_depend_on_the_order_of_features(features, random):
    def outcome(items):
        try:
            return match(CLASSIFIER, dict(items), "d")
        except UsageError:
            return None

    items = list(features.items())
    first = outcome(items)
    random.shuffle(items)
    assert outcome(items) == first
    if first:
        assert isinstance(features[first["image"]], INPUTS)
        assert isinstance(features[first["label"]], ClassLabel)
