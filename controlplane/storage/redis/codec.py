r"""Domain values as bytes, and records as frames.

A value is `<type tag><schema version><MessagePack>`: one byte, one byte, the rest. Dataclasses are
encoded as maps by field name, so a field that has a default may be added or dropped without a new
version: readers ignore what they do not know. A version goes up only when old readers would
misunderstand; they then refuse the record with `UnreadableRecord`.

A frame is what a collection's hash holds: `<revision> <generation> <updated_ms> <created_ms>\n`
in decimal, then the value. The commit script writes the header, because only it knows the numbers.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec

from controlplane.domain.access.records import ApiToken, Ban, JoinToken, RoleBinding, TokenUse
from controlplane.domain.agents import Agent, Instance
from controlplane.domain.approvals.model import Approval, StandingGrant
from controlplane.domain.approvals.outbox import Delivery
from controlplane.domain.audit.keeping import AuditKeeping
from controlplane.domain.configs.extra_schema import ExtraSchema
from controlplane.domain.configs.layers import ConfigLayer
from controlplane.domain.drains import Drain, EmergencyStop, StopAcknowledgement
from controlplane.domain.experiments.model import Experiment, Exposure
from controlplane.domain.namespaces import Namespace
from controlplane.domain.policy_sets.candidates import PolicyCandidate, PolicyStage
from controlplane.domain.policy_sets.history import PolicyChange, PolicyHead
from controlplane.domain.policy_sets.tests import PolicyTests
from controlplane.domain.policy_settings import PolicySettings
from controlplane.domain.prompts.evaluations import Evaluation
from controlplane.domain.prompts.model import LabelMove, Prompt, PromptPin, PromptVersion
from controlplane.domain.rollouts.model import Rollout
from controlplane.domain.routes import Route, SessionPin
from controlplane.domain.tasks import Task, TaskStream
from controlplane.services.ports import Record
from controlplane.storage.stamps import stamp_in_place
from fleetplane_policy.model import Policy

# Every type that may be stored: (type, tag, current schema version). A tag is never used again for
# another type. The last one takes plain data: None, numbers, lists, maps.
_SCHEMAS: Final[tuple[tuple[Any, int, int], ...]] = (
    (str, 1, 1),
    (Agent, 2, 1),
    (Instance, 3, 1),
    (ConfigLayer, 4, 1),
    (Policy, 5, 1),
    (ExtraSchema, 6, 1),
    (Task, 7, 1),
    (TaskStream, 8, 1),
    (Route, 9, 1),
    (SessionPin, 10, 1),
    (Drain, 11, 1),
    (EmergencyStop, 12, 1),
    (StopAcknowledgement, 13, 1),
    (Rollout, 14, 1),
    (Namespace, 15, 1),
    (RoleBinding, 16, 1),
    (ApiToken, 17, 1),
    (TokenUse, 18, 1),
    (JoinToken, 19, 1),
    (Ban, 20, 1),
    (Prompt, 32, 1),
    (PromptVersion, 33, 1),
    (PromptPin, 34, 1),
    (LabelMove, 35, 1),
    (Evaluation, 36, 1),
    (Approval, 25, 1),
    (StandingGrant, 26, 1),
    (Delivery, 27, 1),
    (PolicySettings, 21, 1),
    (PolicyCandidate, 22, 1),
    (PolicyStage, 23, 1),
    (PolicyHead, 24, 1),
    (PolicyChange, 51, 1),
    (PolicyTests, 52, 1),
    (AuditKeeping, 42, 1),
    (Experiment, 37, 1),
    (Exposure, 38, 1),
)
_PLAIN_TAG: Final = bytes((0, 1))
_PLAIN_TYPES: Final = (dict, list, tuple, int, float, bool, bytes, type(None))

_encode: Final = msgspec.msgpack.Encoder().encode
_prefixes: Final[dict[type, bytes]] = {
    **dict.fromkeys(_PLAIN_TYPES, _PLAIN_TAG),
    **{value_type: bytes((tag, version)) for value_type, tag, version in _SCHEMAS},
}
_decoders: Final[dict[bytes, Callable[[bytes], Any]]] = {
    _PLAIN_TAG: msgspec.msgpack.Decoder().decode,
    **{
        bytes((tag, version)): msgspec.msgpack.Decoder(value_type).decode
        for value_type, tag, version in _SCHEMAS
    },
}


class UnreadableRecord(Exception):
    """A stored value cannot be understood: written by a newer release, or damaged.

    `what` names it. A reader of one record lets this propagate; a follower skips the record, keeps
    what it had, and says so in the log.
    """

    def __init__(self, what: str, why: str) -> None:
        super().__init__(f"{what} is unreadable: {why}")
        self.what = what


def encode_value(value: Any) -> bytes:
    """Return the value as bytes. Raises TypeError for a type that is not registered here."""
    prefix = _prefixes.get(type(value))
    if prefix is None:
        raise TypeError(f"values of type {type(value).__name__} cannot be stored")
    return prefix + _encode(value)


def decode_value(data: bytes, what: str) -> Any:
    """Return the value of `encode_value`'s bytes, or raise UnreadableRecord, which names `what`."""
    decode = _decoders.get(data[:2])
    if decode is None:
        raise UnreadableRecord(what, f"type and schema version {data[:2].hex() or 'missing'}")
    try:
        return decode(data[2:])
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        raise UnreadableRecord(what, str(error)) from error


def decode_frame(key: str, frame: bytes) -> Record:
    """Return the record of a frame, its value stamped. Raises UnreadableRecord."""
    header, _, data = frame.partition(b"\n")
    try:
        revision, generation, updated_at_ms, created_at_ms = map(int, header.split())
    except ValueError as error:
        raise UnreadableRecord(f"record {key!r}", "its header is damaged") from error
    value = decode_value(data, f"record {key!r}")
    stamp_in_place(value, (revision, generation, updated_at_ms, created_at_ms))
    return Record(key, value, revision, generation, updated_at_ms, created_at_ms)


def decode_history_entry(history: str, revision: int, at_ms: int, data: bytes) -> Record:
    """Return an entry of a history as a record that was made and last changed at `revision`."""
    value = decode_value(data, f"revision {revision} of history {history!r}")
    stamp_in_place(value, (revision, revision, at_ms, at_ms))
    return Record(history, value, revision, revision, at_ms, at_ms)
