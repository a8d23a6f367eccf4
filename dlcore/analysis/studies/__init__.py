"""The studies of the lectures, one file each; importing this package registers them all."""

import importlib
import pkgutil

from dlcore.analysis.study import create, defaults, kind, names

__all__ = ["create", "defaults", "kind", "names"]

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
