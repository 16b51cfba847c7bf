"""Namespaces, their bounds and what is used of them, as tables."""

from collections.abc import Iterable
from typing import Final

from controlplane.cli.contract_words import word
from controlplane.cli.moments import ago, moment
from controlplane.cli.quota_options import QUOTAS, SIZES
from controlplane.cli.rendering import Column, fields, table
from fleetplane import NamespaceState
from fleetplane.v1 import namespace_service_pb2 as pb

_COLUMNS: Final = (
    Column("NAMESPACE", flexible=True),
    Column("STATE"),
    Column("BOUNDS", flexible=True),
    Column("LABELS", flexible=True),
    Column("AGE", right=True),
    Column("MADE BY", flexible=True),
    Column("WHAT FOR", flexible=True),
)

_USAGE_COLUMNS: Final = (
    Column("QUOTA"),
    Column("USED", right=True),
    Column("BOUND", right=True),
    Column("PERCENT", right=True),
)

_KIB: Final = 1024


def namespaces_table(namespaces: Iterable[pb.Namespace]) -> str:
    """Lay out namespaces, one per line."""
    return table(
        _COLUMNS,
        [
            (
                one.name,
                word(NamespaceState, one.state),
                bounds(one.quotas),
                _labels(one),
                ago(one.created_at),
                one.created_by,
                one.description,
            )
            for one in namespaces
        ],
    )


def namespace_details(namespace: pb.Namespace) -> str:
    """Lay out everything about a namespace."""
    changed = moment(namespace.updated_at)
    return fields(
        {
            "namespace": namespace.name,
            "state": word(NamespaceState, namespace.state),
            "what for": namespace.description,
            "labels": _labels(namespace),
            "bounds": bounds(namespace.quotas) or "none but the daemon's own",
            "made by": namespace.created_by or "its first use",
            "created": moment(namespace.created_at),
            "changed": f"{changed} (revision {namespace.revision})" if changed else "",
        }
    )


def usage_table(usage: pb.GetUsageResponse) -> str:
    """Lay out what is used of each quota: one per line, `-` where there is no bound."""
    rows = []
    for name in QUOTAS:
        used, bound = getattr(usage.used, name), getattr(usage.quotas, name)
        share = f"{used / bound:.0%}".replace("%", " %") if bound else ""
        rows.append(
            (
                name.replace("_", " "),
                _amount(name, used),
                _amount(name, bound) if bound else "",
                share,
            )
        )
    return table(_USAGE_COLUMNS, rows)


def bounds(quotas: pb.Quotas) -> str:
    """Return the bounds in a line; empty if there are none."""
    found = {name: getattr(quotas, name) for name in QUOTAS}
    return ", ".join(
        f"{name.replace('_', ' ')} {_amount(name, bound)}" for name, bound in found.items() if bound
    )


def _labels(namespace: pb.Namespace) -> str:
    return ", ".join(f"{key}={value}" for key, value in sorted(namespace.labels.items()))


def _amount(name: str, number: int) -> str:
    return readable_size(number) if name in SIZES else str(number)


def readable_size(count: int) -> str:
    """Return a number of bytes in its largest unit, such as `64 MiB` or `1.5 KiB`."""
    amount, unit = float(count), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if amount < _KIB:
            break
        amount, unit = amount / _KIB, larger
    return f"{amount:.1f}".removesuffix(".0") + f" {unit}"
