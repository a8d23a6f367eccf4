"""Words with settings: what each form of an item reads as, and what is refused."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dlcore import words
from dlcore.errors import UsageError

NAMES = st.from_regex(r"[a-z_][a-z0-9_]*", fullmatch=True)
VALUES = st.one_of(
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    # Nothing that reads as a number or a truth value.
    st.from_regex(r"[g-z/.:()=]{2,8}", fullmatch=True).filter(lambda text: text != "inf"),
)
WORDS = st.sampled_from(["samples", "trunk/.*", r"(?:a|b)/\w+", "[(:]x", r"stage2_block\d+/.*"])
ITEMS = st.lists(st.tuples(WORDS, st.dictionaries(NAMES, VALUES, max_size=3)), max_size=3)


def written(value):
    return str(value).lower() if isinstance(value, bool) else str(value)


def item(word, settings):
    listed = ",".join(f"{name}={written(value)}" for name, value in settings.items())
    return f"{word}:{listed}" if settings else word


@given(items=ITEMS, space=st.sampled_from([" ", "  ", "\n"]))
def test_what_is_written_is_read_with_its_types(items, space):
    text = space.join(item(word, settings) for word, settings in items)
    parsed = words.parse(text)
    assert parsed == items
    for (_, read), (_, meant) in zip(parsed, items, strict=True):
        assert [type(value) for value in read.values()] == [type(v) for v in meant.values()]


def test_nothing_is_an_empty_list():
    assert words.parse("") == words.parse("  ") == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("x:y", True),
        ("x:y=true", True),
        ("x:y=False", False),
        ("x:y=7", 7),
        ("x:y=-7", -7),
        ("x:y=1e-4", 1e-4),
        ("x:y=.5", 0.5),
        ("x:y=7.0", 7.0),
        ("x:y=sgd", "sgd"),
        ("x:y=1_000", "1_000"),
        ("x:y=he:uniform", "he:uniform"),
        ("x:y=a=b", "a=b"),
        ("x:y=", ""),
    ],
)
def test_a_value_reads_as_a_number_or_a_truth_value_before_a_string(text, value):
    ((word, settings),) = words.parse(text)
    assert (word, settings) == ("x", {"y": value})
    assert type(settings["y"]) is type(value)


@pytest.mark.parametrize(
    "word",
    [
        "(?:conv|norm)/.*",
        "(?i:CONV)/kernel",
        "((?:a):b)/(?:c)",
        r"[:)(]+",
        r"a\:b",
        r"a\(",
        "a(:b",
    ],
)
def test_a_regular_expression_keeps_its_own_colons(word):
    assert words.parse(word) == [(word, {})]
    if "a(" not in word:
        assert words.parse(f"{word}:frozen,rate=2") == [(word, {"frozen": True, "rate": 2})]


def test_a_bracket_that_a_backslash_has_made_a_character_opens_nothing():
    assert words.parse(r"a\(:frozen") == [(r"a\(", {"frozen": True})]
    assert words.parse(r"[\]:]:frozen") == [(r"[\]:]", {"frozen": True})]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (":rate=2", "':rate=2' has no word before its colon"),
        ("head:", "'' in 'head:' is not a setting: write name=value, or name for true"),
        ("head:a,,b", "'' in 'head:a,,b' is not a setting"),
        ("head:=2", "'=2' in 'head:=2' is not a setting"),
        ("trunk head:10", "'10' in 'head:10' is not a setting"),
        ("head:weight-decay=2", "'weight-decay=2' in .* is not a setting"),
        ("head:a=1,b,a=2", "'head:a=1,b,a=2' sets a twice"),
    ],
)
def test_what_does_not_parse_is_refused_in_one_line_that_names_the_field(text, named):
    with pytest.raises(UsageError, match=f"^{re.escape(repr(text))}: {named}"):
        words.parse(text)
    with pytest.raises(UsageError, match=f"^groups={re.escape(text)}: {named}") as refused:
        words.parse(text, "groups")
    assert "\n" not in str(refused.value)
