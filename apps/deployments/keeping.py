"""Which versions stay, and why. Pure: what is needed is handed in.

Nothing stays or goes but for a reason that can be told; a version that several reasons keep tells them all.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from apps.deployments.tag_patterns import is_pattern, matches

MAX_PATTERNS = 20
#: Tags that people move from version to version: what they name is what somebody means by them.
MOVING = frozenset(
    {
        *("latest", "stable", "current", "edge", "nightly", "main", "master", "trunk"),
        *("prod", "production", "staging", "dev", "develop", "test"),
    }
)
#: Signatures and the like of the image with that digest (cosign: sha256-<digest>.sig).
_ABOUT = re.compile(r"sha256-([0-9a-f]{64})(\.[a-z]+)?")
#: Nothing younger goes: a deploy, a signature or an index may be about to need it.
YOUNG = timedelta(hours=1)
#: What a tag named before it was pushed anew, and what no tag ever named, stays so long.
REPLACED = timedelta(days=1)


class PatternInvalid(ValueError):
    """Says which, for a person."""


def patterns_of(text: str) -> tuple[str, ...]:
    """Patterns out of a text in which spaces or commas part them. Raises PatternInvalid."""
    found = tuple(dict.fromkeys(part for part in re.split(r"[\s,]+", text) if part))
    if len(found) > MAX_PATTERNS:
        raise PatternInvalid(f"There may be {MAX_PATTERNS} patterns at most.")
    for one in found:
        if not is_pattern(one):
            raise PatternInvalid(f"{one[:60]!r} is no pattern: letters, digits, '.', '_', '-', and * and ? for any.")
    return found


@dataclass(frozen=True, slots=True)
class Rules:
    """See models.Retention."""

    is_on: bool = False
    keep_last: int = 20
    keep_days: int = 0
    keep_tags: tuple[str, ...] = ()
    rollback_releases: int = 10


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version that is there. ``replaced_at``: since when its tag names something else; None while it names it."""

    pk: int
    tag: str
    digest: str
    pushed_at: datetime
    replaced_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Reason:
    """``code`` for programs, ``words`` for people, ``values`` for those who translate."""

    code: str
    words: str
    values: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Verdict:
    """No reason: it goes."""

    version: Candidate
    reasons: tuple[Reason, ...]

    @property
    def goes(self) -> bool:
        return not self.reasons


def judged(
    versions: Sequence[Candidate],
    rules: Rules,
    *,
    releases: Mapping[int, Collection[int]],
    uses: Mapping[int, Sequence[str]],
    at: datetime,
) -> list[Verdict]:
    """What becomes of each, the newest first.

    ``releases``: version -> the releases in the rollback window that are made of it. ``uses``: version -> what runs it
    or is about to, in words.
    """
    ordered = sorted(versions, key=lambda one: (one.pushed_at, one.pk), reverse=True)
    # Neither a signature nor "latest" takes a version's place.
    aside = {one.pk for one in ordered if _ABOUT.fullmatch(one.tag) or one.tag in MOVING}
    ranked = [one for one in ordered if one.replaced_at is None and one.pk not in aside]
    newest = {one.pk for one in ranked[: rules.keep_last]}
    found = {
        one.pk: [
            *_needed(releases.get(one.pk, ()), uses.get(one.pk, ())),
            *(_current(one, rules, newest, at) if one.replaced_at is None else _replaced(one, at)),
        ]
        for one in ordered
    }
    # A signature stays with what it is of, and goes with it, however new it is itself.
    kept = {one.digest: one.tag for one in reversed(ordered) if found[one.pk]}
    for one in ordered:
        about = _ABOUT.fullmatch(one.tag)
        if about and rules.is_on and f"sha256:{about[1]}" in kept:
            found[one.pk].append(_reason("about", "it belongs to {tag}", tag=kept[f"sha256:{about[1]}"]))
    # One image under two tags is one in the registry: it stays, and so may both.
    shared = {one.digest: one.tag for one in reversed(ordered) if found[one.pk]}
    for one in ordered:
        if not found[one.pk] and one.digest in shared:
            found[one.pk].append(_reason("same", "the same image as {tag}", tag=shared[one.digest]))
    return [Verdict(one, tuple(found[one.pk])) for one in ordered]


def _needed(releases: Iterable[int], uses: Iterable[str]) -> list[Reason]:
    found = [_reason("use", "in use: {what}", what=what) for what in uses]
    if numbers := sorted(releases, reverse=True):
        text = ", ".join(map(str, numbers[:3])) + (", …" if len(numbers) > 3 else "")
        found.append(_reason("release", "release {numbers} can be gone back to", numbers=text))
    return found


def _current(one: Candidate, rules: Rules, newest: Collection[int], at: datetime) -> list[Reason]:
    if not rules.is_on:
        return [_reason("off", "clean-up of tags is off")]
    found = []
    if one.pk in newest:
        found.append(_reason("last", "one of the newest {count}", count=rules.keep_last))
    if at - one.pushed_at < timedelta(days=rules.keep_days):
        found.append(_reason("days", "pushed within {days} days", days=rules.keep_days))
    found += [_reason("tag", "matches {pattern}", pattern=text) for text in rules.keep_tags if matches(text, one.tag)]
    if one.tag in MOVING:
        found.append(_reason("moving", "a tag that moves from version to version"))
    if at - one.pushed_at < YOUNG:
        found.append(_reason("young", "pushed just now"))
    return found


def _replaced(one: Candidate, at: datetime) -> list[Reason]:
    """Its tag names something else: no rule of tags speaks of it."""
    if one.replaced_at is not None and at - one.replaced_at < REPLACED:
        return [_reason("replaced", "its tag was pushed anew within a day")]
    return []


def _reason(code: str, words: str, **values: object) -> Reason:
    return Reason(code, words.format(**values), values)
