"""Errors that a user can mend; nodes report them in one line and without a traceback."""

from __future__ import annotations

from typing import Final

BUSY: Final = "an episode is running"
"""What a node that changes its model at rest only says in a refusal; asked again later, it may not refuse."""


class ConfigurationError(Exception):
    """A node cannot run as it was configured; the message says what to change."""


class MessageError(ValueError):
    """A message that cannot be used; the message says what is wrong with it."""
