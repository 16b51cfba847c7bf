"""Answers repeated questions with the bytes of the last answer, while nothing changed.

Orchestrators ask the same few questions over and over. Such a question costs two look-ups: neither
parsing, nor selecting, nor rendering.
"""

from collections.abc import Awaitable, Callable, Hashable
from typing import Any, Final

from controlplane.api.gate import enter_again, enter_namespace
from controlplane.api.pipeline import decode_request
from controlplane.api.reply_cache import ReplyCache
from controlplane.services.read_model import NamespaceView, ReadModel

REPLIES: Final = 4096
"""Questions remembered per method."""

LARGEST_QUESTION: Final = 4096
"""Bytes; longer questions are answered, but not remembered."""


class RememberedReplies:
    """The answers of one unary method whose requests have `namespace` and `min_revision`.

    `answer` says with each message whether it may be given to the next caller who asks the same;
    one that was dealt out to this call alone may not. An answer depends on the question alone, not
    on who asks; every call passes the gate before anything is looked up, so that nobody is given an
    answer of a namespace that he may not see. Confined callers do not get here.
    """

    def __init__(
        self,
        read_model: ReadModel,
        decode: Callable[[bytes], Any],
        version_of: Callable[[NamespaceView], Hashable],
        answer: Callable[[Any], Awaitable[tuple[Any, bool]]],
    ) -> None:
        self._read_model = read_model
        self._decode = decode
        self._version_of = version_of
        self._answer = answer
        self._replies = ReplyCache(REPLIES)
        self._asked: dict[bytes, tuple[str, int]] = {}
        """Question -> its namespace and `min_revision`, so that it is parsed once."""

    async def reply(self, raw: bytes) -> bytes:
        """Return the answer to a serialised request, serialised.

        Raises:
            DomainError: the caller may not ask this there; or what `answer` raises.
        """
        asked = self._asked.get(raw)
        if asked is None:
            request = decode_request(self._decode, raw)
            namespace = enter_namespace(request.namespace)
        else:
            namespace, min_revision = asked
            enter_again(namespace)
            view = self._read_model.view(namespace)
            if view.position.revision >= min_revision:
                known = self._replies.get(raw, self._version_of(view))
                if known is not None:
                    return known
            request = decode_request(self._decode, raw)
        view = await self._read_model.at_least(namespace, request.min_revision)
        version = self._version_of(view)
        message, may_be_repeated = await self._answer(request)
        answer: bytes = message.SerializeToString()
        if may_be_repeated and len(raw) <= LARGEST_QUESTION:
            if len(self._asked) >= REPLIES:
                self._asked.clear()
            self._asked[raw] = (namespace, request.min_revision)
            self._replies.put(raw, version, answer)
        return answer
