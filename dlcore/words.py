"""Lists of things with settings, written in one line, so that a recipe's field is also a flag.

Items are separated by spaces. An item is a word, or a word with settings behind a colon, which are
separated by commas. A setting is `name=value`, or a bare `name`, which means true:

    trunk/.*:frozen head/.*:rate=10,weight_decay=0

A word may be a regular expression, in which colons are at home (`(?:conv|norm)/.*`). The settings
therefore begin at the first colon that is outside parentheses and brackets and has no backslash
before it.
"""

import re

from dlcore.errors import UsageError

Setting = bool | int | float | str


def parse(text: str, field: str = "") -> list[tuple[str, dict[str, Setting]]]:
    """Reads a list of words with settings.

    Args:
      text: the list; empty for none.
      field: the name of the field that holds it, for messages.

    Returns:
      Each word with its settings, in order. A value is an int, a float or a bool (`true` or
      `false`) where it reads as one, otherwise a string.

    Raises:
      UsageError: an item without a word, a colon without settings, or a setting that is not of that
        form or occurs twice.
    """
    return [_item(item, f"{field}={text}" if field else repr(text)) for item in text.split()]


def _item(item: str, where: str) -> tuple[str, dict[str, Setting]]:
    colon = _colon(item)
    word, listed = item[:colon], item[colon + 1 :]
    if not word:
        raise UsageError(f"{where}: {item!r} has no word before its colon")
    settings: dict[str, Setting] = {}
    for setting in listed.split(",") if colon < len(item) else ():
        name, equals, value = setting.partition("=")
        if not name.isidentifier():
            raise UsageError(
                f"{where}: {setting!r} in {item!r} is not a setting: write name=value, or name for "
                "true, with commas between settings and spaces between items"
            )
        if name in settings:
            raise UsageError(f"{where}: {item!r} sets {name} twice")
        settings[name] = _value(value) if equals else True
    return word, settings


def _colon(item: str) -> int:
    """Where the colon before the settings is; the item's length if there is none."""
    depth, in_brackets = 0, False
    # A backslash takes the next character with it.
    for token in re.finditer(r"\\.|.", item):
        character = token.group()
        if in_brackets:
            in_brackets = character != "]"
        elif character == "[":
            in_brackets = True
        elif character in "()":
            depth += 1 if character == "(" else -1
        elif character == ":" and not depth:
            return token.start()
    return len(item)


def _value(text: str) -> Setting:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    # Python also reads 1_000, which somebody may have meant as a name.
    for kind in (int, float) if "_" not in text else ():
        try:
            return kind(text)
        except ValueError:
            continue
    return text
