"""How certainly the decisions on an action are recorded, by the settings of a namespace."""

from collections.abc import Callable, Sequence
from typing import Final

from controlplane.domain.policy_settings import DecisionLogRule, DecisionLogSettings
from fleetplane_policy.attributes import DEFAULT_DELIMITERS
from fleetplane_policy.globs import compile_glob

KEPT_ACTIONS: Final = 4096
"""Actions whose rule is remembered; callers may invent any number of them."""

_ASYNC: Final = DecisionLogRule(actions=("**",))
"""What holds where no rule matches."""


class DurabilityRules:
    """The settings of a namespace, ready to be asked per decision."""

    __slots__ = ("_known", "_rules", "settings")

    def __init__(self, settings: DecisionLogSettings) -> None:
        self.settings = settings
        self._rules = [(_globs(rule.actions), rule) for rule in settings.rules]
        self._known: dict[str, DecisionLogRule] = {}

    @property
    def all_async(self) -> bool:
        """Whether there is nothing to ask."""
        return not self._rules

    def of(self, action: str) -> DecisionLogRule:
        """Return the first rule that matches; without one a decision is recorded ASYNC."""
        known = self._known.get(action)
        if known is None:
            known = next((rule for matches, rule in self._rules if matches(action)), _ASYNC)
            if len(self._known) >= KEPT_ACTIONS:
                self._known.clear()
            self._known[action] = known
        return known


def _globs(patterns: Sequence[str]) -> Callable[[str], bool]:
    matchers = []
    for pattern in patterns:
        try:
            matchers.append(compile_glob(pattern, DEFAULT_DELIMITERS))
        except ValueError:  # by a release that allowed it; it matches nothing here
            continue
    return lambda action: any(matches(action) for matches in matchers)
