import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_fed.system.errors import UserError
from data_prep.text import LANGUAGES, normalise, rules_for


@pytest.mark.parametrize(
    ("language", "sentence", "expected"),
    [
        ("fr", "C’est à vendre.", "c'est à vendre"),
        (
            "fr",
            "Ce volume, c'est moi qui l'ai écrit ; c'est la chose.",
            "ce volume c'est moi qui l'ai écrit c'est la chose",
        ),
        ("fr", "Qu’est-ce que c’est ?… qu’est-ce que c’est ?…", "qu'est ce que c'est qu'est ce que c'est"),
        ("fr", "«\u00a0Le cœur de ma sœur\u202f», dit-il.", "le coeur de ma soeur dit il"),
        ("fr", "Lætitia et l’Œuvre", "laetitia et l'oeuvre"),
        ("fr", "Sur l' amendement, qu’ il vote", "sur l'amendement qu'il vote"),
        ("fr", "Élève à l'école : « ça, 'oui' »", "élève à l'école ça oui"),
        ("fr", "E\u0301cole", "école"),
        ("fr", "El Niño à Köln", "el nino à koln"),
        ("fr", "soixante-neuf — mille\tun", "soixante neuf mille un"),
        ("it", "Un po’ d’acqua, perché no? È così.", "un po' d'acqua perché no è così"),
        ("en", "“Don’t!” said O'Neil; the dogs' café—closed.", "don't said o'neil the dogs cafe closed"),
        ("en", "'Twas the night", "'twas the night"),
        ("de", "Straße, Äpfel und wie geht's?", "straße äpfel und wie gehts"),
        ("es", "¿Qué tal, señor? ¡Vergüenza!", "qué tal señor vergüenza"),
        ("pt", "Não, coração às três.", "não coração às três"),
        ("pt-BR", "Pão", "pão"),
        ("nl", "'s Avonds foto’s, twee\u0133en", "'s avonds foto's tweeijen"),
        ("ca", "El col·legi, l’aŀlot", "el col·legi l'al·lot"),
    ],
)
def test_real_sentences(language: str, sentence: str, expected: str) -> None:
    assert normalise(sentence, language) == expected


@pytest.mark.parametrize(
    "sentence",
    [
        "Il a 3 ans",
        "x² et ½",
        "Louis Ⅳ",
        "dix %",
        "cinq €",
        "marks & spencer",
        "Привет",
        "東京",
        "d\u0092eau",
        "\ufffdtat",
        "",
        " …!? '",
    ],
)
def test_uncertain_sentences_are_refused(sentence: str) -> None:
    assert normalise(sentence, "fr") is None


def test_digits_and_case_can_be_chosen() -> None:
    assert normalise("L'an 1789", rules_for("fr", digits="keep")) == "l'an 1789"
    assert normalise("L’été", rules_for("fr", case="upper")) == "L'ÉTÉ"
    with pytest.raises(UserError, match=r"digits=refuse\|keep"):
        rules_for("fr", digits="drop")


def test_an_unknown_language_names_the_known_and_the_nearest() -> None:
    with pytest.raises(UserError, match=r"known are ca, de, .*Nearest: 'fr'"):
        normalise("bonjour", "french")


@given(
    st.sampled_from(sorted(LANGUAGES)),
    st.text(st.sampled_from("aàçéeiñoöuœßlsdqt '’-·.«»\u00a0\u0301L") | st.characters(codec="utf-8")),
)
def test_output_is_made_of_the_alphabet_and_stays_as_it_is(language: str, sentence: str) -> None:
    text = normalise(sentence, language)
    if text is not None:
        assert text and set(text) <= set(LANGUAGES[language].alphabet + "' ")
        assert text == " ".join(text.split())
        assert normalise(text, language) == text
