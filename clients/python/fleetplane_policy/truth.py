"""The four values a condition can take, and how `all`, `any` and `not` combine them.

    FALSE    0   the condition does not hold
    TRUE     1   it holds
    MISSING  2   it depends on an attribute the request does not have
    ERROR    3   it depends on an attribute that is there but cannot be compared (wrong type, NaN)

MISSING and ERROR are both "unknown" (U) to the outside. They are kept apart because a policy
answers them differently. The combination is Kleene's; among unknowns ERROR outranks MISSING, so an
error is never hidden behind an absence, and De Morgan's laws hold.

    all   F  T  M  E        any   F  T  M  E        not
     F    F  F  F  F         F    F  T  M  E         F   T
     T    F  T  M  E         T    T  T  T  T         T   F
     M    F  M  M  E         M    M  T  M  E         M   M
     E    F  E  E  E         E    E  T  E  E         E   E

What a policy does with the value of its whole condition:

    condition   DENY, REQUIRE_APPROVAL                        ALLOW      LOG_ONLY
    T           match                                         match      observed (T)
    F           no match                                      no match   nothing
    M           no match; match if on_missing is MATCH        no match   observed (U)
    E           match, CONDITION_INDETERMINATE                no match   observed (U)

Consequences worth knowing, with `environment` absent and on_missing NO_MATCH:

    environment eq production              M   the policy does not match
    not (environment eq production)        M   neither does its negation, and so for `ne`, `not_in`
    all(environment eq x, action eq y)     F when the action differs, else M
    any(environment eq x, action eq y)     T when the action is y: the absence does not matter
    environment exists                     F   `exists` and `is_null` never answer M

A leaf may settle its own absence with `if_missing`: `match` makes it T, `no_match` F, `error` E;
that value then takes part in the combination (so `not` of a `match` leaf is F).
"""

from collections.abc import Callable
from typing import Any, Final

from fleetplane_policy.model import Request, Truth

FALSE: Final = 0
TRUE: Final = 1
MISSING: Final = 2
ERROR: Final = 3

NEGATED: Final = (TRUE, FALSE, MISSING, ERROR)
"""Indexed by a value: its negation."""

Test = Callable[[Any], int]
"""Judges the value of one attribute."""

Condition = Callable[[Request], int]
"""Judges a request."""

SHOWN: Final = (Truth.FALSE, Truth.TRUE, Truth.UNKNOWN, Truth.UNKNOWN)
"""Indexed by a value: how it is shown."""
