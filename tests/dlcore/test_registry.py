import sys

import pytest

from dlcore.errors import UsageError
from dlcore.registry import Registry


@pytest.fixture
def registry():
    fruit = Registry("fruit")
    for name in ("pear", "apple"):
        fruit.add(name, name.upper())
    return fruit


def test_names_are_sorted_and_lead_to_their_things(registry):
    assert registry.names() == ["apple", "pear"]
    assert registry.get("pear") == "PEAR"


def test_a_name_is_taken_once(registry):
    with pytest.raises(ValueError, match="fruit 'pear' is registered twice"):
        registry.add("pear", "another")
    assert registry.get("pear") == "PEAR"


def test_an_unknown_name_is_answered_with_near_matches_or_with_all(registry):
    with pytest.raises(UsageError, match="unknown fruit 'peer': did you mean pear?"):
        registry.get("peer")
    with pytest.raises(UsageError, match="apple, pear"):
        registry.get("zzz")


def test_an_option_that_is_not_there_is_named_with_those_that_are(registry):
    registry.check_options("pear", {"size": 1}, ["size", "color"])
    with pytest.raises(UsageError, match="fruit 'pear' has no option 'sise': it has size, color"):
        registry.check_options("pear", {"sise": 1}, ["size", "color"])


def test_a_module_is_imported_when_one_of_its_names_is_asked_for(tmp_path, monkeypatch):
    (tmp_path / "lazy_orchard").mkdir()
    (tmp_path / "lazy_orchard" / "stone.py").write_text(
        "from lazy_orchard import registry\nregistry.add('plum', 1)\nregistry.add('cherry', 2)\n"
    )
    (tmp_path / "lazy_orchard" / "__init__.py").write_text(
        "from dlcore.registry import Registry\n"
        "registry = Registry('fruit', __name__, {'stone': ['plum', 'cherry']})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import lazy_orchard

    assert lazy_orchard.registry.names() == ["cherry", "plum"]
    lazy_orchard.registry.add("quince", "from elsewhere")
    assert lazy_orchard.registry.names() == ["cherry", "plum", "quince"]
    assert lazy_orchard.registry.listed() == ["cherry", "plum"]
    assert "lazy_orchard.stone" not in sys.modules
    assert lazy_orchard.registry.get("cherry") == 2
    assert "lazy_orchard.stone" in sys.modules
