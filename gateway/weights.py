"""From shares per version or group (0 to 100) to HAProxy weights per instance (0 to 256). Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from math import gcd, lcm

from gateway.contract import Group

MOST = 256
USUAL = 100


def server_weights(shares: Mapping[str, int], instances: Mapping[str, Collection[str]]) -> dict[str, int]:
    """The weight of each instance, so that each version gets its share whatever its number of instances.

    A version without instances gives its share to the others; one that ``shares`` does not name gets 0.
    Where integers up to 256 can be exact, they are (all equal: 100 each). Where they cannot (a share of 1
    over many instances), the version's total is kept right and some of its instances get no new requests.
    """
    weights = {name: 0 for names in instances.values() for name in names}
    ratios = {tag: Fraction(shares[tag], len(names)) for tag, names in instances.items() if names and shares.get(tag)}
    if not ratios:
        return weights
    exact = _smallest_integers(ratios)
    largest = max(exact.values())
    if largest <= MOST:
        factor = max(1, USUAL // largest)
        for tag, weight in exact.items():
            weights.update(dict.fromkeys(instances[tag], weight * factor))
        return weights
    scale = MOST / max(ratios.values())
    for tag in ratios:
        total = max(1, round(shares[tag] * scale))
        names = sorted(instances[tag])
        each, extra = divmod(total, len(names))
        for position, name in enumerate(names):
            weights[name] = each + (position < extra)
    return weights


def group_weights(groups: Sequence[Group], instances: Collection[str]) -> dict[str, int]:
    """The same for groups of instances. One that no group names gets 0; a name that is no instance is passed over."""
    members = {str(number): [name for name in one.containers if name in instances] for number, one in enumerate(groups)}
    shares = {str(number): one.share for number, one in enumerate(groups)}
    return {**dict.fromkeys(instances, 0), **server_weights(shares, members)}


def _smallest_integers(ratios: Mapping[str, Fraction]) -> dict[str, int]:
    common = lcm(*(ratio.denominator for ratio in ratios.values()))
    integers = {tag: int(ratio * common) for tag, ratio in ratios.items()}
    divisor = gcd(*integers.values())
    return {tag: weight // divisor for tag, weight in integers.items()}
