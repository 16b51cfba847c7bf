"""Every log field and logger name, once. Dashboards and alerts are written against these."""

from typing import Final

LOGGER_ACCESS: Final = "fleetplane.access"
"""One line per finished call; at DEBUG hot calls and those refused for their number or their
credential, all others at INFO."""

LOGGER_API: Final = "fleetplane.api"
"""The gRPC edge: listening, draining, defects found while answering a call."""

FIELD_REQUEST_ID: Final = "request_id"
"""The `x-request-id` of the call; also sent back to the caller."""

FIELD_METHOD: Final = "method"
"""Full name of the RPC, such as `/fleetplane.v1.RegistryService/Register`."""

FIELD_CODE: Final = "code"
"""Final gRPC status code, by name."""

FIELD_REASON: Final = "reason"
"""`ErrorReason` of a refusal, without its prefix."""

FIELD_DURATION_MS: Final = "duration_ms"
"""From the first byte handled to the last, in milliseconds."""

FIELD_CALLER: Final = "caller"
"""Name of the caller."""

FIELD_PEER: Final = "peer"
"""Address of the caller, as gRPC writes it."""

FIELD_CANCELLED_BY: Final = "cancelled_by"
"""Who ended a CANCELLED call: `client`, `deadline` or `server`."""

FIELD_UNLOGGED: Final = "unlogged"
"""Entries of this kind that were left out since the last one, because there were too many."""

FIELD_IN_FLIGHT: Final = "in_flight"
"""Calls that are being answered."""

FIELD_GRACE_SECONDS: Final = "grace_seconds"
"""How long calls in flight may take to finish."""

FIELD_ERROR: Final = "error"
"""Type of an unexpected exception; its text and traceback are in the same entry."""
