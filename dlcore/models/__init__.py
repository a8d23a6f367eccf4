"""Every architecture as a Linen module, made by `create(name, **overrides)`."""

from dlcore.models.registry import Entry, create, defaults, entry, listed, names, register

__all__ = ["Entry", "create", "defaults", "entry", "listed", "names", "register"]
