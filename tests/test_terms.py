"""Terms travel: all licences hold, the strictest use wins, and what nobody understands is carried along."""

import itertools

import pytest

from siamdiff.terms import (
    ATTRIBUTION,
    NO_DERIVATIVES,
    NON_COMMERCIAL,
    SHARE_ALIKE,
    USE_RESTRICTIONS,
    Terms,
    Use,
    combine,
    licence_of,
    use_of,
)

SOURCES = [
    Terms("CC-BY-4.0", "research"),
    Terms("CC-BY-NC-SA-4.0", "any"),
    Terms("Kvasir-SEG", "free for research and education, permission needed for commercial use"),
    Terms("CreativeML Open RAIL-M", "any"),
    Terms("the clinic's letter of 3 May", "with the board's vote 12/3"),
    Terms(),
    Terms("CC0-1.0; MIT", "no use"),
]


def test_the_order_of_uses_is_from_none_to_any() -> None:
    texts = ["no use", "unknown", "as told by phone", "Research use only.", "research and education"]
    texts += ["Non-commercial use only", "any use"]
    assert [use_of(text) for text in texts] == list(Use)


@pytest.mark.parametrize(
    ("text", "use", "obligations"),
    [
        ("cc0", Use.ANY, ()),
        ("CC BY 4.0", Use.ANY, (ATTRIBUTION,)),
        ("CC-BY-NC-SA-4.0", Use.NON_COMMERCIAL, (ATTRIBUTION, NON_COMMERCIAL, SHARE_ALIKE)),
        ("CC-BY-SA-3.0-DE", Use.ANY, (ATTRIBUTION, SHARE_ALIKE)),
        ("CC-BY-NC-ND", Use.NON_COMMERCIAL, (ATTRIBUTION, NON_COMMERCIAL, NO_DERIVATIVES)),
        ("cc_by_nd_3.0_igo", Use.ANY, (ATTRIBUTION, NO_DERIVATIVES)),
        ("CreativeML Open RAIL-M", Use.ANY, (USE_RESTRICTIONS,)),
        ("Kvasir-SEG", Use.EDUCATION, (ATTRIBUTION,)),
    ],
)
def test_a_known_licence_tells_what_it_asks_for(text: str, use: Use, obligations: tuple[str, ...]) -> None:
    licence = licence_of(text)
    assert licence and (licence.use, licence.obligations) == (use, obligations)


@pytest.mark.parametrize(
    "text",
    [
        "cc-by-sa-nd-4.0", "CC-BY-SA-NC", "cc-by-nd-nc", "CC BY 4.0 NC", "cc-by-4.0-nd", "CC-BY-4.0-SA",
        "cc-by-nc-sa-nd", "cc-by-3.0-igo-nc", "cc-by-4.0, but ask first", "GPL", "unknown", "",
    ],
)  # fmt: skip
def test_another_text_is_for_a_person_to_read(text: str) -> None:
    assert licence_of(text) is None
    assert Terms(text, "any").unread


def test_the_strictest_use_wins_also_over_what_a_licence_permits() -> None:
    assert combine([Terms("CC-BY-4.0", "any"), Terms("MIT", "research")]).permitted_use == "research"
    assert combine([Terms("CC-BY-NC-4.0", "any")]).permitted_use == "non-commercial"
    assert Terms("CC-BY-NC-4.0", "any").use is Use.NON_COMMERCIAL


def test_what_is_unknown_is_not_permitted_until_it_is_known() -> None:
    terms = combine([Terms("CC-BY-4.0", "any"), Terms()])
    assert terms == Terms("CC-BY-4.0; unknown", "unknown")
    assert terms.unread == ("licence unknown", "permitted use unknown")


def test_words_that_nobody_knows_go_along_word_by_word() -> None:
    terms = combine([Terms("A letter", "with vote 12"), Terms("MIT", "any"), Terms("MIT", "research")])
    assert terms == Terms("A letter; MIT", "research; with vote 12")
    assert terms.use is Use.UNREAD and terms.unread == ("licence A letter", "permitted use with vote 12")
    assert combine([Terms("MIT", "any"), Terms("MIT", "with vote 12")]).permitted_use == "with vote 12"


def test_combining_is_associative_and_idempotent_and_its_order_decides_only_the_texts_order() -> None:
    for a, b, c in itertools.product(SOURCES, repeat=3):
        left, right = combine([combine([a, b]), c]), combine([a, combine([b, c])])
        assert left == right == combine([a, b, c])
        assert combine([left, left]) == combine([left]) == left
        other = combine([c, b, a])
        assert (other.use, set(other.obligations), set(other.unread)) == (
            left.use,
            set(left.obligations),
            set(left.unread),
        )


def test_one_licence_in_two_spellings_is_one() -> None:
    assert combine([Terms("CC-BY-4.0", "any"), Terms("cc by 4.0", "any")]).license == "CC-BY-4.0"


def test_a_licence_alone_permits_what_it_permits() -> None:
    assert Terms.of_licence("creativeml-openrail-m") == Terms("creativeml-openrail-m", "any")
    assert Terms.of_licence(None) == Terms()
    assert Terms.of_licence("a letter").use is Use.UNKNOWN
