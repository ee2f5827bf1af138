"""What a container wrote, made fit to be kept and shown: without controls, without secrets, and of bounded size."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Collection, Iterable
from urllib.parse import quote, quote_plus, unquote

LINES = 200
SIZE = 64 * 1024
MASK = "••••"
#: What is shorter stands in any text by chance.
SECRET_MIN = 6
#: A text that holds so many values, or lines of them, is a list of secrets. Each has the whole text searched.
MOST = 1000
#: So many times the size is looked at: what is masked gets shorter.
LOOKED_AT = 4

# ECMA-48: CSI sequences; OSC, DCS, SOS, PM and APC strings with their ends; and the two-character escapes.
_ANSI = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"
    r"|\x1b[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)?"
    r"|\x1b[ -/]*[0-~]"
)
_USER_INFO = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,30}://[^/@:\s]*:([^/@\s]+)@")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def plain(text: str) -> str:
    """Without escape sequences and control characters, new line and tabulator kept."""
    return _CONTROLS.sub("", _ANSI.sub("", text))


def masked(text: str, secrets: Iterable[str], *, cut: bool = False) -> str:
    """With these values hidden, also in the forms that programs write them in (``forms_of``).

    Of a value of several lines each line is hidden, as the text may begin in the middle of it. ``cut``: a line may
    end in the middle of one. A text that holds more than MOST of them is hidden as a whole.
    """
    grams = {text[at : at + SECRET_MIN] for at in range(len(text) - SECRET_MIN + 1)}
    # What does not even begin in the text need not be looked for: a value may have thousands of lines.
    hidden = {one for secret in secrets for one in forms_of(secret) if one[:SECRET_MIN] in grams}
    if len(hidden) > MOST:
        return MASK
    # The longest first: a shorter one may be part of it, and would leave the rest to read.
    for one in sorted(hidden, key=len, reverse=True):
        text = text.replace(one, MASK)
    return "\n".join(_end_masked(line, hidden) for line in text.split("\n")) if cut else text


def _end_masked(line: str, hidden: Iterable[str]) -> str:
    for whole in hidden:
        at = line.rfind(whole[:SECRET_MIN])
        if at >= 0 and whole.startswith(line[at:]):
            line = line[:at] + MASK
    return line


def forms_of(secret: str) -> set[str]:
    """How it may stand in a text: as it is and line by line; quoted as JSON, in a program, in a URL; as base64 and in
    hexadecimal; and the password alone of a value that is a URL. What is shorter than SECRET_MIN is left out.
    """
    raw = secret.encode("utf-8", "surrogatepass")
    quoted = (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1])
    found = {raw.hex(), raw.hex().upper(), *_base64(raw)}
    for form in (secret, *secret.splitlines(), *quoted, *_password(secret)):
        found |= {form, plain(form), plain(form).strip()}
    found |= {quote(raw, safe=""), quote(raw), quote_plus(raw)}
    return {one for one in found if len(one) >= SECRET_MIN}


def _password(secret: str) -> set[str]:
    matched = _USER_INFO.match(secret)
    return {matched[1], unquote(matched[1])} if matched else set()


def _base64(raw: bytes) -> set[str]:
    """In the middle of something that was encoded as a whole, too: there it begins at one of three places."""
    found = set()
    for before, cut in ((0, 0), (1, 2), (2, 3)):
        text = b64encode(bytes(before) + raw).decode("ascii")[cut : (before + len(raw)) * 8 // 6]
        found |= {text, text.replace("+", "-").replace("/", "_")}
    return found


def readable(raw: bytes, secrets: Collection[str], *, lines: int = LINES, size: int = SIZE) -> tuple[str, bool]:
    """The last lines, of at most ``size`` bytes of UTF-8; and whether there was more.

    Masked before it is cut: half a secret would not be known for one.
    """
    text = plain(raw.decode("utf-8", "replace"))
    cut = len(text) > LOOKED_AT * size
    if cut:
        text = _from_a_beginning(text[-LOOKED_AT * size :], secrets)
    kept = masked(text, secrets).split("\n")
    ends = kept[-1] == ""
    wanted = lines + (1 if ends else 0)
    cut = cut or len(kept) > wanted
    text = "\n".join(kept[-wanted:])
    whole = text.encode()
    if len(whole) > size:
        cut = True
        text = whole[-size:].decode("utf-8", "ignore")
        # From the beginning of a line on, unless it is all one.
        text = text.partition("\n")[2] or text
    return text, cut


def _from_a_beginning(text: str, secrets: Collection[str]) -> str:
    """Without what may be the end of a secret, of which the beginning was cut off."""
    longest = max((len(one) for secret in secrets for one in forms_of(secret)), default=0)
    line = text.find("\n", 0, longest)
    return text[line + 1 if line >= 0 else longest :]
