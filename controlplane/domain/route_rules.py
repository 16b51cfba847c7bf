"""Rules of routes: which shares are allowed, and which version a bucket belongs to. Pure."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from controlplane.domain.errors import FieldViolation, InvalidArgument
from controlplane.domain.routes import WHOLE_BP, Route, Share

MAX_SHARES: Final = 16
"""Versions in one route: a rollout needs two; more than a few are no plan but a mistake."""

_STRIDE: Final = 6_181
"""Buckets between two calls without a session: next to the golden section of 10,000, which spreads
any few calls evenly, and coprime with it, so that 10,000 calls meet every bucket once."""


def validate_shares(shares: Sequence[tuple[str, int]], *, field: str = "shares") -> None:
    """Check the (version, weight in basis points) of a route that is to be set.

    Raises:
        InvalidArgument: one violation for every wrong field, such as `shares[1].weight_bp`: there
            are not 1-16, a version is missing or named twice, a weight is not 0-10,000, or they do
            not sum to exactly 10,000.
    """
    violations = tuple(_violations(shares, field))
    if violations:
        raise InvalidArgument(*violations)


def _violations(shares: Sequence[tuple[str, int]], field: str) -> Iterator[FieldViolation]:
    if not 1 <= len(shares) <= MAX_SHARES:
        yield FieldViolation(field, f"has {len(shares)} versions, 1-{MAX_SHARES} are allowed")
        return
    first: dict[str, int] = {}
    in_range = True
    for index, (version, weight_bp) in enumerate(shares):
        if not version:
            yield FieldViolation(f"{field}[{index}].version", "must not be empty")
        elif first.setdefault(version, index) != index:
            description = f"is named before, in {field}[{first[version]}]"
            yield FieldViolation(f"{field}[{index}].version", description)
        if not 0 <= weight_bp <= WHOLE_BP:
            in_range = False
            yield FieldViolation(f"{field}[{index}].weight_bp", f"must be 0-{WHOLE_BP}")
    total = sum(weight_bp for _, weight_bp in shares)
    if in_range and total != WHOLE_BP:
        # The last one is named: it is the one that usually takes the rest.
        description = f"the shares sum to {total}, not {WHOLE_BP}"
        yield FieldViolation(f"{field}[{len(shares) - 1}].weight_bp", description)


def share_at(shares: Iterable[Share], number: int) -> Share:
    """Return the share that a bucket (0-9,999) belongs to: ranges follow each other in order.

    Raises:
        ValueError: the shares do not sum to 10,000, or there is no such bucket.
    """
    end = 0
    for share in shares:
        end += share.weight_bp
        if number < end:
            return share
    raise ValueError(f"bucket {number} is in no share: they sum to {end}")


def whole_share(shares: Iterable[Share]) -> Share | None:
    """Return the share that gets everything; None if several get something."""
    for share in shares:
        if share.weight_bp == WHOLE_BP:
            return share
    return None


def nth_bucket(number: int) -> int:
    """Return the bucket of the `number`-th call that has no session (any integer).

    Low discrepancy: any 10,000 calls in a row meet every bucket exactly once, and in any fewer the
    calls of a share differ from what it is due by a few, however small the share is.
    """
    return number * _STRIDE % WHOLE_BP


def weight_of(route: Route, agent_id: str) -> int:
    """Return the share of a version in basis points; 0 for one that the route does not name."""
    return next((one.weight_bp for one in route.shares if one.agent_id == agent_id), 0)


def heaviest(shares: Iterable[Share], usable: Callable[[str], bool]) -> Share | None:
    """Return the largest share of a usable agent_id; of equals the last; None if there is none.

    Shares of 0 are never returned: a version that is to get nothing gets nothing, even if it is the
    only one left.
    """
    best: Share | None = None
    for share in shares:
        if not share.weight_bp or not usable(share.agent_id):
            continue
        if best is None or share.weight_bp >= best.weight_bp:
            best = share
    return best
