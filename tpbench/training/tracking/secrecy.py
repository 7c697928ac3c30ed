"""Passwords and tokens in a URI, or in a message that quotes one: found in one way, whoever asks."""

from __future__ import annotations

import re
from urllib.parse import unquote

# Up to the last @: a password may hold slashes, question marks, and another @.
_USER = re.compile(r"(?<=//)[^\s'\"]*@")
_WORDS = r"passw|passphrase|pwd|token|secret|credential|signature|(?:api|access|account|shared)[_-]?key"
# Also where a query holds another, percent-encoded, as ODBC's do.
_FIELD = re.compile(rf"(?i)((?:[\w.-]*(?:{_WORDS})[\w.-]*|\b(?:pass|sig))(?:=|%3D))[^&;\s'\"]+")


def has_secret(text: str) -> bool:
    """Whether a URI holds a password, or a field of its query that is named like one."""
    return any(_FIELD.search(one) or any(":" in user for user in _USER.findall(one)) for one in (text, unquote(text)))


def without_secrets(text: str) -> str:
    """A text as a person may see it: without users, passwords and tokens."""
    seen = _FIELD.sub(r"\1...", _USER.sub("", text))
    # What is hidden by its spelling is not shown in part.
    hidden = unquote(seen)
    return (
        re.sub(r"(?<=://)[^\s'\"]*", "...", seen) if hidden != seen and _FIELD.sub(r"\1...", hidden) != hidden else seen
    )
