"""What a process believes of what it wrote to ZooKeeper."""

from __future__ import annotations

from apps.deployments.kept import Kept

STANDS = (1, 10, 20, 3)


def _addresses(count: int) -> dict[tuple[str, str], str]:
    return {("1.0", f"{number:012x}"): "10.0.0.1:80" for number in range(count)}


def test_what_was_kept_is_given_for_the_same_node_the_same_change_and_the_same_session_only():
    kept = Kept(100)
    kept.put("shop", STANDS, _addresses(2))
    assert kept.get("shop", STANDS) == _addresses(2)
    for position in range(4):
        other = tuple(value + (index == position) for index, value in enumerate(STANDS))
        assert kept.get("shop", other) is None
    assert kept.get("blog", STANDS) is None


def test_what_was_dropped_or_cleared_is_not_given():
    kept = Kept(100)
    kept.put("shop", STANDS, _addresses(2))
    kept.put("blog", STANDS, _addresses(2))
    kept.drop("shop")
    kept.drop("never")
    assert (kept.get("shop", STANDS), kept.get("blog", STANDS)) == (None, _addresses(2))
    kept.clear()
    assert kept.get("blog", STANDS) is None


def test_what_was_not_asked_for_the_longest_makes_room():
    kept = Kept(12)
    for app in ("a", "b", "c"):
        kept.put(app, STANDS, _addresses(3))
    kept.get("a", STANDS)
    kept.put("d", STANDS, {})
    assert [app for app in "abcd" if kept.get(app, STANDS) is not None] == ["a", "c", "d"]
    # What was replaced does not count twice, and what is too large by itself is not kept at all.
    for _ in range(10):
        kept.put("a", STANDS, _addresses(3))
    assert kept.get("c", STANDS) is not None
    kept.put("huge", STANDS, _addresses(50))
    assert kept.get("huge", STANDS) is None
    assert kept.get("a", STANDS) is not None
