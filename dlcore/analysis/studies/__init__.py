"""The studies of the lectures, one file each; a study is imported when it is asked for."""

from dlcore.analysis.study import create, defaults, kind, names

__all__ = ["create", "defaults", "kind", "names"]
