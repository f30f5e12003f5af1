import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_fed.data_prep.text import LANGUAGES, normalise, rules_for
from asr_fed.system.errors import UserError


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
        ("ca", "El col.legi, COL•LEGI, col‧lecció. Mal.La · a·b", "el col·legi col·legi col·lecció mal la a b"),
        ("ca", "L 'home li dona 'm", "l'home li dona'm"),
        ("fr", "C 'est l ' été, qu 'il l''aime", "c'est l'été qu'il l'aime"),
        ("fr", "Aujourd' hui, la vitamine C 'naturelle'", "aujourd'hui la vitamine c naturelle"),
        ("fr", "l\\'eau", "l'eau"),
        ("en", "It 's five o 'clock, I don 't, he 'll", "it's five o'clock i don't he'll"),
        ("nl", "’ s Avonds is ’t goed", "'s avonds is 't goed"),
        ("de", "STRAẞE, ‚nein‘, o\u0308de", "straße nein öde"),
        ("pt", "E' verdade: copo d’ água", "é verdade copo d'água"),
        ("pt", "IRMÃ, NÃO", "irmã não"),
    ],
)
def test_real_sentences(language: str, sentence: str, expected: str) -> None:
    assert normalise(sentence, language) == expected


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("E' arrivata. E'stata lei, e` qui", "è arrivata è stata lei è qui"),
        ("C'e' piu' luce perche' e' estate", "c'è più luce perché è estate"),
        ("Dov' e' l'universita'? Cos'e'", "dov'è l'università cos'è"),
        ("LA CITTA' E' COSI'", "la città è così"),
        ("Lunedi' andro' la', pero' di' la verita' a papa'", "lunedì andrò là però di' la verità a papà"),
        ("Un caffe' per i ventitre', affinche' dica si'", "un caffè per i ventitré affinché dica sì"),
        ("un po' di pane, a mo' di be', fa' va' sta' da'", "un po' di pane a mo' di be' fa' va' sta' da'"),
        ("Non e' ne' bianco ne' nero", "non è né bianco né nero"),
        ("i de' Medici, ne' giorni co' fiori", "i de' medici ne' giorni co' fiori"),
        ("'la vita' e' 'bella', disse 'ma perche'?'", "la vita è bella disse ma perché"),
        ("‘Ora’ la ’ndrangheta e’ in citta’", "ora la ndrangheta è in città"),
        ("la 'e' di un 'amico'", "la e di un amico"),
        ("via' mio' dio' fu' qui' tre'", "via mio dio fu qui tre"),  # no accent is possible
        ("un' altra, anch' io, dell 'oro, sant' Antonio", "un'altra anch'io dell'oro sant'antonio"),
    ],
)
def test_italian_accents_that_were_typed_as_apostrophes(typed: str, meant: str) -> None:
    assert normalise(typed, "it") == meant


@pytest.mark.parametrize("apostrophe", "'＇‘’‛′`´ʹʻʼʽʾˈ՚׳ꞌ")
@pytest.mark.parametrize(
    ("language", "written", "meant"),
    [
        ("ca", "l{}home", "l'home"),
        ("de", "geht{}s", "gehts"),
        ("en", "don{}t", "don't"),
        ("es", "O{}Donnell", "odonnell"),
        ("fr", "l{}été", "l'été"),
        ("it", "l{}uomo e{} li{}", "l'uomo è lì"),
        ("nl", "{}s avonds", "'s avonds"),
        ("pt", "d{}água", "d'água"),
    ],
)
def test_every_apostrophe_is_one(apostrophe: str, language: str, written: str, meant: str) -> None:
    assert normalise(written.format(*[apostrophe] * written.count("{}")), language) == meant


@pytest.mark.parametrize(
    "sentence",
    [
        "lâ€™été",  # UTF-8 read as another encoding, wholly or in part
        "hÃ´tel Ã©tÃ©",
        "voilÃ\u00a0",
        "nº un",  # read as words of their own
        "Mᵐᵉ Dupont",
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
    st.text(st.sampled_from("aàçéeiñoöuœßlsdqtchn '’-·.«»\u00a0\u0301L") | st.characters(codec="utf-8")),
)
def test_output_is_made_of_the_alphabet_and_stays_as_it_is(language: str, sentence: str) -> None:
    text = normalise(sentence, language)
    if text is not None:
        assert text and set(text) <= set(LANGUAGES[language].alphabet + "' ")
        assert text == " ".join(text.split())
        assert normalise(text, language) == text
