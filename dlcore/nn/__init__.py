"""Layers as pure functions and small Linen modules, one room a subject: import from the room."""
