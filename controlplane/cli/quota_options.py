"""The bounds of a namespace as options: `--max-agents 100`, `--max-config-bytes 64MiB`."""

import functools
import inspect
import re
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from controlplane.cli.call import Command

if TYPE_CHECKING:  # the SDK costs a quarter of a second: imported when a client is made
    from fleetplane import QuotaFields
    from fleetplane.v1 import namespace_service_pb2 as pb

LARGEST: Final = 2**32 - 1
"""What the contract can say of everything that is not a size in bytes."""

_UNITS: Final = {"": 1, "kib": 1024, "mib": 1024**2, "gib": 1024**3, "tib": 1024**4}
_SIZE: Final = re.compile(r"(\d{1,12})\s*([kmgt]ib)?", re.IGNORECASE)

QUOTAS: Final = {
    "agents": "Agents that are not decommissioned.",
    "instances": "Registered instances.",
    "streams": "Open heartbeat and task streams, per replica.",
    "watches": "Open watches, per replica.",
    "policies": "Policies.",
    "config_bytes": "Bytes of all configuration, such as 64MiB.",
    "waiting_tasks": "Tasks that are neither running nor ended.",
    "calls_per_second": "Calls per second, per replica.",
    "prompts": "Prompts.",
    "prompt_bytes": "Bytes of all versions of prompts, such as 16MiB.",
}
"""Every quota by its field in the contract, with what it bounds; 0 is no bound."""

SIZES: Final = frozenset({"config_bytes", "prompt_bytes"})
"""Those that count bytes."""


def size(text: str) -> int:
    """Read a number of bytes: `65536`, `64KiB`, `1 GiB`.

    Raises:
        typer.BadParameter: it is none.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is not a size such as 65536, 64KiB or 1GiB")
    return int(found[1]) * _UNITS[(found[2] or "").lower()]


def bounded(function: Command) -> Command:
    """Give a command an option per quota, in place of its parameter `quotas`.

    The function gets the bounds that were given, by name: `{"agents": 100}`.
    """
    signature = inspect.signature(function)
    options = {f"max_{name}": name for name in QUOTAS}
    added = [_option(parameter, name) for parameter, name in options.items()]
    first, *rest = (one for one in signature.parameters.values() if one.name != "quotas")

    @functools.wraps(function)
    def run(call: Any, **values: Any) -> Any:
        given = {name: values.pop(parameter) for parameter, name in options.items()}
        quotas = {name: bound for name, bound in given.items() if bound is not None}
        return function(call, quotas=quotas, **values)

    run.__signature__ = signature.replace(  # type: ignore[attr-defined]  # read by `command`
        parameters=[first, *rest, *added]
    )
    return run


def _option(parameter: str, name: str) -> inspect.Parameter:
    flag = "--" + parameter.replace("_", "-")
    more: dict[str, Any] = (
        {"metavar": "SIZE", "parser": size}
        if name in SIZES
        else {"metavar": "NUMBER", "min": 0, "max": LARGEST}
    )
    return inspect.Parameter(
        parameter,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[int | None, typer.Option(flag, help=QUOTAS[name], **more)],
    )


def merged(present: "pb.Quotas", changes: "QuotaFields") -> "QuotaFields":
    """Return all bounds of a namespace with some of them changed."""
    bounds: dict[str, int] = {name: getattr(present, name) for name in QUOTAS}
    both: QuotaFields = {**bounds, **changes}  # type: ignore[typeddict-item]  # QUOTAS are its keys
    return both
