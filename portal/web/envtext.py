"""Environment variables as people paste them: the common part of .env files, read strictly."""

from __future__ import annotations

import re

from django.utils.translation import gettext as _

_NAME = re.compile(r"[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_]*)[ \t]*=[ \t]*")
_IGNORED = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\n|\Z)")
_SINGLE = re.compile(r"'([^']*)'")
_DOUBLE = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_PLAIN = re.compile(r"[^\n]*")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\", "$": "$", "'": "'"}


class EnvTextInvalid(ValueError):
    """The message names the line and says what is wrong with it."""


def parse_env(text: str) -> dict[str, str]:
    """``KEY=VALUE`` lines to a dictionary. Raises EnvTextInvalid.

    Blank lines and lines that begin with # are left out. A value in single quotes stands as it is; in double quotes
    \\n, \\t, \\r, \\", \\\\ and \\$ mean what they usually do; both may go over several lines. Without quotes the
    value ends with its line, trailing blanks cut off. Nothing is expanded.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        if ignored := _IGNORED.match(text, at):
            at = ignored.end()
            continue
        line = text.count("\n", 0, at) + 1
        name = _NAME.match(text, at)
        if name is None:
            raise EnvTextInvalid(_("Line %(line)d is not NAME=value.") % {"line": line})
        if name[1] in found:
            raise EnvTextInvalid(_("Line %(line)d sets %(name)s again.") % {"line": line, "name": name[1]})
        found[name[1]], at = _value(text, name.end(), line)
    return found


def _value(text: str, at: int, line: int) -> tuple[str, int]:
    """The value that begins at ``at``, and where the next line begins."""
    quote = text[at : at + 1]
    if quote not in ("'", '"'):
        plain = _PLAIN.match(text, at)
        assert plain is not None  # noqa: S101 - matches the empty string too
        return plain[0].rstrip(), plain.end() + 1
    match = (_SINGLE if quote == "'" else _DOUBLE).match(text, at)
    if match is None:
        raise EnvTextInvalid(_("The quote that line %(line)d opens is never closed.") % {"line": line})
    rest = _IGNORED.match(text, match.end())
    if rest is None:
        raise EnvTextInvalid(_("There is text after the closing quote of line %(line)d.") % {"line": line})
    value = match[1]
    if quote == '"':
        value = _ESCAPE.sub(lambda found: _ESCAPES.get(found[1], found[0]), value)
    return value, rest.end()
