"""Text match of a task with what agents say about themselves: Okapi BM25.

S. Robertson and H. Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", Foundations
and Trends in Information Retrieval 3(4), 2009. The collection is the candidates themselves: a word
that all of them use says nothing about which to take, however rare it is in the fleet.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log
from sys import intern

K1 = 1.2
"""How fast repetitions of a word stop counting; the usual value."""

B = 0.75
"""How much a long text is discounted, 0-1; the usual value."""

_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class Document:
    """The words of one text and how often each occurs."""

    counts: Mapping[str, int]
    length: int

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Document":
        """Return the document that the texts make together."""
        # Interned: a fleet shares most of its words.
        counts = Counter(map(intern, words("\n".join(texts))))
        return cls(dict(counts), counts.total())


def words(text: str) -> list[str]:
    """Return the words of a text, in order: letters and digits, case and width folded.

    `summarize_text-v2` is three words.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return _WORD.findall(text.casefold())


def relevance(query: str, documents: Sequence[Document]) -> list[float]:
    """Return the BM25 score of each document for a query, in order; 0 where no word is shared.

    The result depends on nothing but the arguments, to the last bit, and permuting the documents
    permutes it. The inverse document frequency has 1 added within its logarithm, so that a word
    that most candidates use counts little and never against them.
    """
    if not documents:
        return []
    wanted = frozenset(words(query))
    # Sorted: the order of a set differs between processes, and with it the rounding of the sum.
    shared = [sorted(document.counts.keys() & wanted) for document in documents]
    spread = Counter(word for hits in shared for word in hits)
    total = len(documents)
    weight = {word: log(1 + (total - n + 0.5) / (n + 0.5)) for word, n in spread.items()}
    mean_length = sum(document.length for document in documents) / total or 1.0
    scores = []
    for document, hits in zip(documents, shared, strict=True):
        saturation = K1 * (1 - B + B * document.length / mean_length)
        scores.append(
            sum(
                weight[word]
                * document.counts[word]
                * (K1 + 1)
                / (document.counts[word] + saturation)
                for word in hits
            )
        )
    return scores


def relative(scores: Sequence[float]) -> list[float]:
    """Return scores as shares of the best, 0-1; all 0 if nothing matched at all."""
    best = max(scores, default=0.0)
    if best <= 0:
        return [0.0] * len(scores)
    return [score / best for score in scores]
