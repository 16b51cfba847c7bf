"""BM25 over what agents say about themselves."""

from hypothesis import given
from hypothesis import strategies as st

from controlplane.domain.text_ranking import Document, relative, relevance, words

TEXTS = st.lists(st.text(alphabet="abc ", max_size=30), max_size=8)


def documents(*texts):
    return [Document.of((text,)) for text in texts]


def test_words_are_letters_and_digits_without_case():
    assert words("Summarize_text-v2, NOW!") == ["summarize", "text", "v2", "now"]


def test_words_fold_what_looks_the_same():
    assert words("Straße \uff37\uff49\uff44\uff45 \u2460") == ["strasse", "wide", "1"]


def test_a_document_counts_the_words_of_all_its_texts():
    document = Document.of(("pay the invoice", "invoice"))

    assert document.counts == {"pay": 1, "the": 1, "invoice": 2}
    assert document.length == 4


def test_the_text_that_shares_the_rare_word_wins():
    scores = relevance(
        "translate the contract",
        documents("translate the menu", "translate the contract", "paint the wall"),
    )

    assert scores[1] > scores[0] > scores[2] > 0


def test_a_text_that_shares_no_word_scores_nothing():
    assert relevance("sing", documents("translate", "paint")) == [0.0, 0.0]


def test_a_word_in_a_long_text_counts_less():
    short, long = relevance("tax", documents("tax advice", "tax advice " + "and more " * 20))

    assert short > long


def test_repetition_saturates():
    one, two, many = relevance(
        "tax", documents("tax a b c d e f g", "tax tax b c d e f g", "tax " * 8)
    )

    assert one < two < many
    assert many - two < 6 * (two - one)


def test_nothing_to_compare_is_no_score():
    assert relevance("tax", []) == []
    assert relevance("", documents("tax")) == [0.0]
    assert relevance("tax", documents("", "")) == [0.0, 0.0]


def test_scores_relative_to_the_best_are_shares():
    assert relative([1.0, 4.0, 0.0]) == [0.25, 1.0, 0.0]
    assert relative([0.0, 0.0]) == [0.0, 0.0]
    assert relative([]) == []


@given(query=st.text(alphabet="abc ", max_size=20), texts=TEXTS)
def test_scores_are_never_negative_and_follow_their_documents(query, texts):
    forward = relevance(query, documents(*texts))
    backward = relevance(query, documents(*reversed(texts)))

    assert forward == list(reversed(backward))
    assert all(score >= 0 for score in forward)
