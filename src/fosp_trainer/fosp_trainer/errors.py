"""The one exception whose text is meant for the person at the terminal."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend: a path, an option, a dataset. Printed as one line, without a traceback."""
