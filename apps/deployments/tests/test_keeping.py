"""Which versions stay, and the reasons that are told. No database."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from apps.deployments.keeping import Candidate, PatternInvalid, Rules, judged, patterns_of

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def version(number, tag="", digest="", days=None, replaced=None):
    """The higher the number, the newer."""
    return Candidate(
        pk=number,
        tag=tag or f"1.{number}",
        digest=digest or f"sha256:{number:064x}",
        pushed_at=NOW - (timedelta(days=days) if days is not None else timedelta(days=1000 - number)),
        replaced_at=None if replaced is None else NOW - timedelta(days=replaced),
    )


def kept(versions, rules, releases=None, uses=None):
    verdicts = judged(versions, rules, releases=releases or {}, uses=uses or {}, at=NOW)
    return {one.version.tag: [reason.code for reason in one.reasons] for one in verdicts if not one.goes}


def on(**values):
    return Rules(is_on=True, **{"keep_last": 1, **values})


MANY = [version(number) for number in range(1, 101)]


def test_the_newest_stay_and_all_others_go():
    assert kept(MANY, on(keep_last=3)) == {"1.100": ["last"], "1.99": ["last"], "1.98": ["last"]}


def test_nothing_that_a_tag_names_goes_while_the_rules_are_off():
    assert set(kept(MANY, Rules())) == {one.tag for one in MANY}


def test_what_a_release_in_the_window_or_something_that_runs_needs_stays():
    found = kept(MANY, on(), releases={7: [3, 12]}, uses={9: ["shop release 4 (2 instances)"]})
    assert found == {"1.100": ["last"], "1.7": ["release"], "1.9": ["use"]}


def test_the_words_say_which_releases_and_what_runs_it():
    verdicts = judged(MANY, on(), releases={7: [1, 2, 3, 4]}, uses={7: ["shop release 4 (2 instances)"]}, at=NOW)
    (seventh,) = [one for one in verdicts if one.version.pk == 7]
    assert [one.words for one in seventh.reasons] == [
        "in use: shop release 4 (2 instances)",
        "release 4, 3, 2, … can be gone back to",
    ]


def test_patterns_days_and_tags_that_move_keep_theirs():
    versions = [
        version(1, "v1.0.0"),
        version(2, "latest"),
        version(3, "pr-7", days=40),
        version(4, "pr-8", days=4),
        version(5, "pr-9", days=3),
    ]
    assert kept(versions, on(keep_tags=("v*",), keep_days=7)) == {
        "pr-9": ["last", "days"],
        "pr-8": ["days"],
        "latest": ["moving"],
        "v1.0.0": ["tag"],
    }


def test_what_was_pushed_just_now_stays_however_many_came():
    versions = [version(number, days=0.01) for number in range(5)]
    assert len(kept(versions, on())) == 5


def test_a_tag_that_moves_takes_nobodys_place():
    assert kept([*MANY, version(200, "latest")], on(keep_last=1)) == {"latest": ["moving"], "1.100": ["last"]}


def test_one_image_under_two_tags_stays_with_both():
    versions = [version(1, "old", digest="sha256:" + "a" * 64), version(50), version(99, "new", "sha256:" + "a" * 64)]
    assert kept(versions, on()) == {"new": ["last"], "old": ["same"]}


def test_a_signature_stays_and_goes_with_what_it_is_of_and_takes_nobodys_place():
    def signed(number):
        return version(number + 500, f"sha256-{number:064x}.sig")

    versions = [*MANY, signed(100), signed(3)]
    assert kept(versions, on()) == {"1.100": ["last"], f"sha256-{100:064x}.sig": ["about"]}


def test_what_a_tag_named_before_stays_a_day_and_then_only_as_long_as_it_is_needed():
    versions = [
        version(1, "a", replaced=0.5),
        version(2, "b", replaced=2),
        version(3, "c", replaced=2),
        version(4, "d"),
    ]
    for rules in (on(), Rules()):
        found = kept(versions, rules, releases={3: [1]})
        assert found.keys() == {"a", "c", "d"}
        assert (found["a"], found["c"]) == (["replaced"], ["release"])


def test_what_was_replaced_takes_no_place_among_the_newest():
    versions = [version(1), version(2), version(3, "1.2", replaced=2)]
    assert kept(versions, on(keep_last=2)) == {"1.2": ["last"], "1.1": ["last"]}


def test_patterns_are_parted_by_spaces_or_commas():
    assert patterns_of(" v*, release-?.*  v*\n") == ("v*", "release-?.*")


@pytest.mark.parametrize("text", ["v[0-9]", "a/b", "$(x)", "v*;", "x" * 129, " ".join(f"a{n}" for n in range(21))])
def test_what_is_no_pattern_is_refused(text):
    with pytest.raises(PatternInvalid):
        patterns_of(text)
