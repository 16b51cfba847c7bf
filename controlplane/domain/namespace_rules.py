"""What a namespace may be called and hold, and when it is empty. Pure."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Final

from controlplane.domain.errors import FieldViolation, InvalidArgument
from controlplane.domain.identity import DEFAULT_NAMESPACE
from controlplane.domain.namespaces import Namespace, Quota, Quotas
from controlplane.domain.selection import text_problem

MAX_DESCRIPTION_BYTES: Final = 1_024
"""Bytes of a description: a paragraph."""

MAX_LABELS: Final = 64
"""Labels of one namespace, as of everything that has labels here."""

MAX_LABEL_KEY_BYTES: Final = 63
"""Bytes of a label's key; it is never empty."""

MAX_LABEL_VALUE_BYTES: Final = 256
"""Bytes of a label's value; it is never empty either, because that removes a label."""

MAX_QUOTA: Final = 2**53 - 1
"""The largest bound: every reader of JSON can hold it exactly. 8 PiB, or more than there is."""

_NAME: Final = re.compile(r"[a-z0-9-]{1,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """How much of what keeps a namespace from being removed is there.

    Attributes:
        agents: Agents that are not decommissioned.
        config_layers: Configuration layers in which something is set.
        config_schemas: 1 if a schema for `extra` is registered.
        policies: Policies, enabled or not.
        routes: Routes.
        unfinished_tasks: Tasks that have not ended.
        active_rollouts: Rollouts that have not ended.
        running_experiments: Experiments that run.
    """

    agents: int = 0
    config_layers: int = 0
    config_schemas: int = 0
    policies: int = 0
    routes: int = 0
    unfinished_tasks: int = 0
    active_rollouts: int = 0
    running_experiments: int = 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing is there."""
        return not self.holds()

    def holds(self) -> dict[str, int]:
        """Return kind of thing -> how many, those above 0."""
        counts = {field.name: getattr(self, field.name) for field in fields(self)}
        return {kind: count for kind, count in counts.items() if count}


def check_new_name(name: str) -> None:
    """Check the name of a namespace that is to be made.

    Raises:
        InvalidArgument: field `name`, if it is not 1-63 of `[a-z0-9-]`.
    """
    if _NAME.fullmatch(name) is None:
        raise InvalidArgument.of("name", "must be 1-63 characters of [a-z0-9-]")


def check_namespace(namespace: Namespace) -> None:
    """Check what a namespace says about itself, and its bounds.

    Raises:
        InvalidArgument: with every violation, as `description`, `labels[<key>]`, `quotas.<quota>`.
    """
    violations = tuple(_violations(namespace))
    if violations:
        raise InvalidArgument(*violations)


def check_removable(name: str) -> None:
    """Check that a namespace may be removed at all.

    Raises:
        InvalidArgument: field `namespace`: `default` exists always.
    """
    if name == DEFAULT_NAMESPACE:
        raise InvalidArgument.of("namespace", f"{DEFAULT_NAMESPACE!r} cannot be removed")


def labelled(before: Mapping[str, str], changes: Mapping[str, str]) -> dict[str, str]:
    """Return labels after a change: an empty value removes one, any other sets it."""
    together = {**before, **changes}
    return {key: value for key, value in together.items() if value}


def exceeds(bound: int, present: int, adding: int) -> bool:
    """Return whether adding would pass a bound (0: there is none).

    What adds nothing passes, however much is there already.
    """
    return bound > 0 and adding > 0 and present + adding > bound


def _violations(namespace: Namespace) -> Iterator[FieldViolation]:
    problem = text_problem(namespace.description, MAX_DESCRIPTION_BYTES)
    if problem is not None:
        yield FieldViolation("description", problem)
    if len(namespace.labels) > MAX_LABELS:
        count = len(namespace.labels)
        yield FieldViolation("labels", f"has {count} entries, at most {MAX_LABELS} are allowed")
    else:
        for key, value in namespace.labels.items():
            yield from _label_violations(key, value)
    yield from _quota_violations(namespace.quotas)


def _label_violations(key: str, value: str) -> Iterator[FieldViolation]:
    where = f"labels[{key[:MAX_LABEL_KEY_BYTES]}]"
    for whose, text, limit in (
        ("its key ", key, MAX_LABEL_KEY_BYTES),
        ("", value, MAX_LABEL_VALUE_BYTES),
    ):
        problem = text_problem(text, limit, required=True)
        if problem is None and not text.isprintable():
            problem = "holds characters that do not print"
        if problem is not None:
            yield FieldViolation(where, f"{whose}{problem}")


def _quota_violations(quotas: Quotas) -> Iterator[FieldViolation]:
    for quota in Quota:
        if not 0 <= quotas.of(quota) <= MAX_QUOTA:
            yield FieldViolation(f"quotas.{quota.value}", f"must be 0-{MAX_QUOTA}; 0 means none")
