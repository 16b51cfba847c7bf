"""Questions to the policies off the wire: read once, checked while they are read.

A `Struct` costs a Python object per claim and a call per value. Requests are therefore parsed as
messages of the same wire format in which a context is the list of its entries as bytes. Claims
repeat (an environment, a currency, the numbers of small costs), so what an entry says is remembered
by its bytes; the common kinds that are new are read in place, the others through a `Struct`. What
is not ordinary at all, such as keys outside of ASCII or bytes that are no `Struct`, is left to the
messages of the contract, which say what is wrong with it.
"""

from collections.abc import Mapping, Sequence
from math import isfinite
from struct import Struct as Layout
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct

from controlplane.api.convert.policies import (
    MAX_CONTEXT_BYTES,
    question_from_proto,
    session_from_proto,
)
from controlplane.api.convert.values import struct_to_json, whole_or_float
from controlplane.api.pipeline import decode_request
from controlplane.api.wire import length_delimited
from controlplane.domain.errors import DomainError, InvalidArgument
from controlplane.domain.policies import validate_claims
from controlplane.services.policies.answers import Question
from fleetplane.v1 import policy_service_pb2 as pb

KEPT_CLAIMS: Final = 8_192
"""Entries of contexts that are remembered; beyond, remembering starts over: 4 MB at most."""

KEPT_CLAIM_BYTES: Final = 128
"""Longest entry that is remembered; what is longer hardly repeats."""

_FIELDS: Final = Struct.FIELDS_FIELD_NUMBER
_KEY, _VALUE = 0x0A, 0x12  # tags of an entry of a map: its key, its value
_NUMBER, _TEXT, _BOOLEAN = 0x11, 0x1A, 0x20  # tags of a `Value`
_NUMBER_BYTES, _BOOLEAN_BYTES = 9, 2  # of such a `Value`, its tag included
_TWO_BYTES: Final = 0x80  # lengths from here on take another byte
_read_double: Final = Layout("<d").unpack_from


class _Unusual(Exception):
    """A context that only the messages of the contract can judge."""


Claim = tuple[str, Any]
"""A key and its value, as policies may see them."""


class KnownClaims(dict[bytes, Claim]):
    """What entries of contexts say, by their bytes; asking for one that is new reads it."""

    def __missing__(self, entry: bytes) -> Claim:
        """Read an entry; remember it if its value cannot be changed and it is short.

        Raises:
            InvalidArgument: the value is not JSON.
            _Unusual: read the whole context through its message.
        """
        claim = _plain(entry)
        if claim is None:
            return _through_a_message(entry)
        if len(entry) <= KEPT_CLAIM_BYTES:
            if len(self) >= KEPT_CLAIMS:
                self.clear()
            self[entry] = claim
        return claim


class QuestionReader:
    """Reads the requests of EvaluatePolicy and BatchEvaluatePolicy.

    Of requests that `decode_single` and `decode_batch` have decoded: those are as in the contract
    but for their contexts.
    """

    def __init__(self) -> None:
        self._claim_of = KnownClaims().__getitem__

    def single(self, raw: bytes, request: Any) -> Question:
        """Return what a call asks: the bytes `raw`, decoded as `request`.

        Raises:
            InvalidArgument: `raw` is no such message, names no agent, or its context is too large
                or not JSON.
        """
        try:
            return self._question(request, len(raw))
        except _Unusual:
            whole = decode_request(pb.EvaluatePolicyRequest.FromString, raw)
            return question_from_proto(whole, len(raw))

    def batch(self, raw: bytes, request: Any) -> Sequence[Question | DomainError]:
        """Return what each item of a batch asks, or why it cannot be asked.

        Raises:
            InvalidArgument: `raw` is no such message.
        """
        within, question = len(raw), self._question
        found: list[Question | DomainError] = []
        try:
            for item in request.items:
                try:
                    found.append(question(item, within))
                except DomainError as refusal:
                    found.append(refusal)
        except _Unusual:
            whole = decode_request(pb.BatchEvaluatePolicyRequest.FromString, raw)
            return [_question_or_refusal(item, within) for item in whole.items]
        return found

    def _question(self, item: Any, within: int) -> Question:
        agent_id = item.agent_id
        if not agent_id:
            raise InvalidArgument.of("agent_id", "is required")
        context = item.context
        if within > MAX_CONTEXT_BYTES < context.ByteSize():  # counting costs as much as parsing
            raise InvalidArgument.of("context", f"is larger than {MAX_CONTEXT_BYTES} bytes")
        session_id = item.session_id
        return Question(
            agent_id,
            item.action,
            dict(map(self._claim_of, context.fields)),
            item.tool,
            session_from_proto(session_id) if session_id else "",
            True,  # by position: half of what a keyword costs
        )


def decode_single(raw: bytes) -> Any:
    """Return a request of EvaluatePolicy, its context unread.

    Raises:
        InvalidArgument: it is no such message.
    """
    return decode_request(_LeanSingle.FromString, raw)


def decode_batch(raw: bytes) -> Any:
    """Return a request of BatchEvaluatePolicy, its contexts unread.

    Raises:
        InvalidArgument: it is no such message.
    """
    return decode_request(_LeanBatch.FromString, raw)


def _plain(entry: bytes) -> Claim | None:
    """Read an entry with an ASCII key and a short ASCII text, number or boolean; None: it is not.

    The layout is that of every writer: the key, then the value, which has one field.
    """
    try:
        if entry[0] != _KEY or (start := 2 + entry[1]) >= _TWO_BYTES or entry[start] != _VALUE:
            return None
        size, kind, end = entry[start + 1], entry[start + 2], len(entry)
        if start + 2 + size != end or size >= _TWO_BYTES:
            return None
        value: Any
        if kind == _TEXT and start + 4 + entry[start + 3] == end:
            value = entry[start + 4 :].decode("ascii")
        elif kind == _NUMBER and size == _NUMBER_BYTES:
            (number,) = _read_double(entry, start + 3)
            if not isfinite(number):
                return None
            value = whole_or_float(number)
        elif kind == _BOOLEAN and size == _BOOLEAN_BYTES and entry[start + 3] <= 1:
            value = entry[start + 3] == 1
        else:
            return None
        return entry[2:start].decode("ascii"), value
    except (IndexError, UnicodeDecodeError):
        return None


def _through_a_message(entry: bytes) -> Claim:
    try:
        struct = Struct.FromString(length_delimited(_FIELDS, entry))
    except DecodeError:
        raise _Unusual from None
    # One outside of ASCII may be equal to another one once both are normalised.
    if not all(map(str.isascii, struct.fields)):
        raise _Unusual
    for claim in validate_claims(struct_to_json(struct, "context")).items():
        return claim
    raise _Unusual  # with fields that no entry has


def _question_or_refusal(item: pb.EvaluationItem, within: int) -> Question | DomainError:
    try:
        return question_from_proto(item, within)
    except DomainError as refusal:
        return refusal


def _lean_messages() -> Mapping[str, Any]:
    """Make messages like those of the contract, in which entries of contexts stay bytes."""
    package, contract = "fleetplane.lean", pb.DESCRIPTOR
    file = descriptor_pb2.FileDescriptorProto(
        name="fleetplane/lean/questions.proto",
        package=package,
        syntax="proto3",
        dependency=[contract.name],
    )
    context = file.message_type.add(name="Context")
    context.field.add(
        name="fields",
        number=_FIELDS,
        type=descriptor_pb2.FieldDescriptorProto.TYPE_BYTES,
        label=descriptor_pb2.FieldDescriptorProto.LABEL_REPEATED,
    )
    instead = {
        ".google.protobuf.Struct": f".{package}.Context",
        f".{contract.package}.EvaluationItem": f".{package}.EvaluationItem",
    }
    for message in (pb.EvaluatePolicyRequest, pb.EvaluationItem, pb.BatchEvaluatePolicyRequest):
        lean = file.message_type.add()
        message.DESCRIPTOR.CopyToProto(lean)
        del lean.enum_type[:]  # fields name those of the contract
        for field in lean.field:
            if field.type_name in instead:
                field.type_name = instead[field.type_name]
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return {
        lean.name: message_factory.GetMessageClass(
            pool.FindMessageTypeByName(f"{package}.{lean.name}")
        )
        for lean in file.message_type
    }


_LEAN: Final = _lean_messages()
_LeanSingle: Final = _LEAN["EvaluatePolicyRequest"]
_LeanBatch: Final = _LEAN["BatchEvaluatePolicyRequest"]
