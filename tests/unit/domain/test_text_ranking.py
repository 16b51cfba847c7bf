"""BM25 over what agents say about themselves."""

from collections import Counter
from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain import text_ranking
from controlplane.domain.text_ranking import K1, MAX_WORDS, B, Corpus, relative, words

TEXT = st.text(alphabet="abcd ", max_size=30)
TEXTS = st.dictionaries(st.sampled_from("123456789"), TEXT, max_size=8)


def corpus_of(texts):
    corpus = Corpus()
    for text_id, text in texts.items():
        corpus.add(text_id, (text,))
    return corpus


def scores(query, *texts):
    """Return the score of each text in a corpus of just these."""
    named = dict(zip(map(str, range(len(texts))), texts, strict=True))
    return corpus_of(named).search(query).scores(named)


def linear_bm25(query, texts):
    """Return id -> score by the definition, reading every text."""
    documents = {text_id: Counter(words(text)) for text_id, text in texts.items()}
    mean = sum(document.total() for document in documents.values()) / (len(documents) or 1)
    found = dict.fromkeys(documents, 0.0)
    for word in set(words(query)):
        holders = [text_id for text_id, document in documents.items() if word in document]
        weight = log(1 + (len(documents) - len(holders) + 0.5) / (len(holders) + 0.5))
        for text_id in holders:
            count = documents[text_id][word]
            norm = 1 - B + B * documents[text_id].total() / mean
            found[text_id] += weight * count * (K1 + 1) / (count + K1 * norm)
    return found


def test_words_are_letters_and_digits_without_case():
    assert words("Summarize_text-v2, NOW!") == ["summarize", "text", "v2", "now"]


def test_words_fold_what_looks_the_same():
    assert words("Straße \uff37\uff49\uff44\uff45 \u2460") == ["strasse", "wide", "1"]


def test_the_words_of_all_parts_of_a_text_count():
    corpus = Corpus()
    corpus.add("1", ("pay the invoice", "invoice"))
    corpus.add("2", ("pay the invoice invoice",))
    corpus.add("3", ("paint",))

    one, two, other = corpus.search("invoice pay").scores("123")

    assert one == two > other == 0.0


def test_the_text_that_shares_the_rare_word_wins():
    menu, contract, wall = scores(
        "translate the contract", "translate the menu", "translate the contract", "paint the wall"
    )

    assert contract > menu > wall > 0


def test_a_text_that_shares_no_word_scores_nothing():
    assert scores("sing", "translate", "paint") == [0.0, 0.0]


def test_a_word_in_a_long_text_counts_less():
    short, long = scores("tax", "tax advice", "tax advice " + "and more " * 20)

    assert short > long


def test_repetition_saturates():
    one, two, many = scores("tax", "tax a b c d e f g", "tax tax b c d e f g", "tax " * 8)

    assert one < two < many
    assert many - two < 6 * (two - one)


def test_nothing_to_compare_is_no_score():
    assert scores("tax") == []
    assert scores("", "tax") == [0.0]
    assert scores("tax", "", "") == [0.0, 0.0]
    assert Corpus().search("tax").scores(["unknown"]) == [0.0]


def test_scores_relative_to_the_best_are_shares():
    assert relative([1.0, 4.0, 0.0]) == [0.25, 1.0, 0.0]
    assert relative([0.0, 0.0]) == [0.0, 0.0]
    assert relative([]) == []


@given(query=TEXT, texts=TEXTS, gone=st.sets(st.sampled_from("123456789")))
def test_the_index_scores_as_reading_every_text_does(query, texts, gone):
    corpus = corpus_of(texts)
    for text_id in gone:
        corpus.remove(text_id, (texts.get(text_id, ""),))
    kept = {text_id: text for text_id, text in texts.items() if text_id not in gone}
    # The definition has no bound on words; up to this many it and the index agree.
    asked = " ".join(sorted(set(words(query)))[:MAX_WORDS])

    found = dict(zip(kept, corpus.search(asked).scores(kept), strict=True))

    assert found == pytest.approx(linear_bm25(asked, kept))
    assert len(corpus) == len(kept)


@given(query=TEXT, texts=TEXTS, limit=st.integers(1, 9), within=st.sets(st.sampled_from("1234567")))
def test_the_best_are_those_with_the_highest_scores(query, texts, limit, within):
    search = corpus_of(texts).search(query)
    scored = zip(texts, search.scores(texts), strict=True)
    expected = sorted((-score, one) for one, score in scored if score > 0 and one in within)

    best = search.best(limit, within)

    assert best == [text_id for _, text_id in expected[:limit]]


@given(query=TEXT, texts=TEXTS)
def test_scores_do_not_depend_on_the_order_in_which_texts_came(query, texts):
    backwards = dict(reversed(texts.items()))

    forward = corpus_of(texts).search(query).scores(texts)

    assert forward == corpus_of(backwards).search(query).scores(texts)
    assert all(score >= 0 for score in forward)


def test_the_rarest_words_of_a_long_query_count():
    texts = {"1": "rare " + " ".join(f"w{n:02}" for n in range(MAX_WORDS))}
    texts |= {str(n): texts["1"].removeprefix("rare ") for n in range(2, 5)}

    search = corpus_of(texts).search(texts["1"])

    # The rare one and all of the others but one.
    assert search.best(9, {"1"}) == ["1"]
    assert search.scores(["1"]) > search.scores(["2"])
    assert len(search._terms) == MAX_WORDS


def test_a_word_that_too_many_hold_finds_nobody_and_still_scores(monkeypatch):
    monkeypatch.setattr(text_ranking, "MAX_HOLDERS", 3)
    texts = {"1": "common rare", "2": "common", "3": "common", "4": "none"}
    corpus = corpus_of(texts)

    assert sorted(corpus.search("common").best(9, set(texts))) == ["1", "2", "3"]
    assert corpus.search("common rare").best(9, set(texts)) == ["1"]
    found = corpus.search("common rare").scores(texts)
    assert found == pytest.approx(list(linear_bm25("common rare", texts).values()))
    assert found[1] > 0

    corpus.add("5", ("common",))
    assert corpus.search("common").best(9, set(texts)) == []
    assert corpus.search("common").scores(["5", "4"]) > [0.0, 0.0]


def test_a_corpus_that_was_emptied_keeps_nothing():
    corpus = corpus_of({"1": "tax advice", "2": "tax"})

    corpus.remove("1", ("tax advice",))
    corpus.remove("2", ("tax",))
    corpus.remove("2", ("tax",))

    assert (len(corpus), corpus._postings, corpus._total_length) == (0, {}, 0)
