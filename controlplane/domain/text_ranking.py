"""Text match of a task with what agents say about themselves: Okapi BM25 over an inverted index.

S. Robertson and H. Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", Foundations
and Trends in Information Retrieval 3(4), 2009. A query touches only texts that hold one of its
words; how many it may touch is bounded, so that its cost does not grow with the corpus.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from heapq import nsmallest
from math import log
from typing import NamedTuple

K1 = 1.2
"""How fast repetitions of a word stop counting; the usual value."""

B = 0.75
"""How much a long text is discounted, 0-1; the usual value."""

MAX_WORDS = 16
"""Words of a query that count, the rarest of those that any text holds: a long task description
has more, but the common ones hardly tell texts apart, and each costs a look-up per text."""

MAX_HOLDERS = 2000
"""Holders of words, summed over the words, that a search goes through: 1 ms of work."""

_WORD = re.compile(r"[^\W_]+")


class Corpus:
    """Texts by id, found by their words. Changes cost what the one text has of words."""

    def __init__(self) -> None:
        self._postings: dict[str, dict[str, int]] = {}
        """word -> id -> how often the text has the word"""
        self._lengths: dict[str, int] = {}
        """id -> words in the text, repetitions included"""
        self._total_length = 0

    def __len__(self) -> int:
        return len(self._lengths)

    def add(self, text_id: str, texts: Iterable[str]) -> None:
        """Add one text, given in parts, under an id that is not taken."""
        postings = self._postings
        found = _words_of(texts)
        for word in found:
            counts = postings.get(word)
            if counts is None:
                postings[word] = {text_id: 1}
            else:
                counts[text_id] = counts.get(text_id, 0) + 1
        self._lengths[text_id] = len(found)
        self._total_length += len(found)

    def remove(self, text_id: str, texts: Iterable[str]) -> None:
        """Forget a text, given as it was added; forgetting an unknown id does nothing."""
        length = self._lengths.pop(text_id, None)
        if length is None:
            return
        self._total_length -= length
        postings = self._postings
        for word in set(_words_of(texts)):
            counts = postings[word]
            del counts[text_id]
            if not counts:
                del postings[word]

    def search(self, query: str) -> "Search":
        """Return a query to be asked about the texts as they are now."""
        held = [
            (len(counts), word)
            for word in set(words(query))
            if (counts := self._postings.get(word)) is not None
        ]
        # By word among equals: the order of a set differs between processes, and with it the choice
        # of words and the rounding of sums.
        rarest = nsmallest(MAX_WORDS, held)
        total = len(self._lengths)
        mean_length = self._total_length / total if self._total_length else 1.0
        terms = [
            _Term((K1 + 1) * log(1 + (total - n + 0.5) / (n + 0.5)), self._postings[word])
            for n, word in rarest
        ]
        return Search(terms, self._lengths, mean_length)


class _Term(NamedTuple):
    """One word of a query."""

    weight: float
    """Its inverse document frequency, times the most that repetition can make of it."""
    counts: Mapping[str, int]
    """How often each text that holds it has it."""


class Search:
    """One query, good until the next change of its corpus.

    The 16 rarest words of the query count, of those that any text holds. Scores depend on the
    corpus and the query and on nothing else, to the last bit: not on the order in which texts came.
    The inverse document frequency has 1 added within its logarithm, so that a word that most texts
    use counts little and never against them.
    """

    def __init__(
        self, terms: Sequence[_Term], lengths: Mapping[str, int], mean_length: float
    ) -> None:
        """Prepare the terms, rarest first."""
        self._terms = terms
        self._lengths = lengths
        self._saturation = K1 * (1 - B)
        self._saturation_per_word = K1 * B / mean_length

    def scores(self, ids: Iterable[str]) -> list[float]:
        """Return the BM25 score of each text, in order; 0 where no word is shared."""
        terms, lengths = self._terms, self._lengths
        if not terms:
            return [0.0 for _ in ids]
        flat, slope = self._saturation, self._saturation_per_word
        scores = []
        for text_id in ids:
            saturation = flat + slope * lengths.get(text_id, 0)
            parts = [
                weight * (count / (count + saturation))
                for weight, counts in terms
                if (count := counts.get(text_id))
            ]
            scores.append(sum(parts) if parts else 0.0)
        return scores

    def best(self, limit: int, within: AbstractSet[str]) -> list[str]:
        """Return at most `limit` ids of `within` with the best match, best first.

        Words are looked up rarest first, as long as they have at most 2,000 holders in all; the
        holders of commoner words only are not found, and nobody is if even the rarest word has
        more. Among those found the words that were looked up decide, then the id.
        """
        left = MAX_HOLDERS
        lengths, flat, slope = self._lengths, self._saturation, self._saturation_per_word
        found: dict[str, float] = {}
        for weight, counts in self._terms:
            left -= len(counts)
            if left < 0:
                break
            for text_id, count in counts.items():
                if text_id in within:
                    part = weight * (count / (count + flat + slope * lengths[text_id]))
                    found[text_id] = found.get(text_id, 0.0) + part
        ranked = nsmallest(limit, [(-score, text_id) for text_id, score in found.items()])
        return [text_id for _, text_id in ranked]


def words(text: str) -> list[str]:
    """Return the words of a text, in order: letters and digits, case and width folded.

    `summarize_text-v2` is three words.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return _WORD.findall(text.casefold())


def _words_of(texts: Iterable[str]) -> list[str]:
    return words("\n".join(texts))


def relative(scores: Sequence[float]) -> list[float]:
    """Return scores as shares of the best, 0-1; all 0 if nothing matched at all."""
    best = max(scores, default=0.0)
    if best <= 0:
        return [0.0] * len(scores)
    return [score / best for score in scores]
