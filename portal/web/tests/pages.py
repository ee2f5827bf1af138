"""Reading pages in tests: what a browser would refuse under our content security policy, and what a person sees."""

from __future__ import annotations

from html.parser import HTMLParser


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.offences: list[str] = []
        self.words: list[str] = []
        self.labelled: set[str] = set()
        self.inputs: list[tuple[str, str]] = []
        self._script = False
        self._in_label = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        for name, value in values.items():
            if name == "style" or (name.startswith("on") and name not in ("on",)) or name.startswith("hx-on"):
                self.offences.append(f"<{tag} {name}>")
            if name in ("src", "href", "action") and value.startswith("javascript:"):
                self.offences.append(f"<{tag} {name}={value}>")
        if tag == "style":
            self.offences.append("<style>")
        if tag == "script":
            self._script = True
            if not values.get("src", "").startswith("/static/"):
                self.offences.append(f"<script src={values.get('src')!r}>")
        if tag == "link" and not values.get("href", "").startswith("/static/"):
            self.offences.append(f"<link href={values.get('href')!r}>")
        if tag == "label":
            self._in_label += 1
            self.labelled.add(values.get("for", ""))
        if tag in ("input", "select", "textarea") and values.get("type") != "hidden":
            named = self._in_label or "aria-label" in values
            self.inputs.append((values.get("id", ""), "labelled" if named else ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._script = False
        if tag == "label":
            self._in_label -= 1

    def handle_data(self, data: str) -> None:
        if self._script and data.strip():
            self.offences.append("inline script")
        self.words.append(data)


def _read(html: bytes) -> _Reader:
    reader = _Reader()
    reader.feed(html.decode())
    reader.close()
    return reader


def offences(html: bytes) -> list[str]:
    """What ``script-src 'self'; style-src 'self'`` would block; empty for a good page."""
    return _read(html).offences


def unlabelled(html: bytes) -> list[str]:
    """Ids of inputs that have no label."""
    reader = _read(html)
    return [pk for pk, how in reader.inputs if not how and pk not in reader.labelled]


def words(html: bytes) -> str:
    """The text of the page, blanks squeezed."""
    return " ".join(" ".join(_read(html).words).split())
