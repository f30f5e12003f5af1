"""Normalisation of transcripts: a table of rules with one line per language.

`normalise` either spells a sentence with the letters of its language, or refuses it: if the spoken form is not certain
(digits, "%", "€", a foreign script), the model would learn a wrong transcript.
"""

import dataclasses
import difflib
import functools
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from asr_fed.data_prep.accents import italian, portuguese
from asr_fed.system.errors import UserError

_LATIN = "abcdefghijklmnopqrstuvwxyz"
_VOWELS = "aeiouyhàáâèéêëìíîïòóôùúûü"  # and h: words are shortened before these
_REFUSED = "\0"
# What Unicode lists as easily confused with an apostrophe (UTS #39), letters excepted.
_APOSTROPHES = "'＇‘’‛′‵`｀´΄᾽᾿῾ʹʻʼʽʾˈˊˋ˴՚׳ꞌߴߵ"
_SPOKEN_SYMBOLS = "%‰&@#§"  # punctuation by Unicode category, but read aloud

# Spelling of letters that a language does not have. Letters with a plain accent need no entry.
_LIGATURES = {"œ": "oe", "æ": "ae", "ß": "ss", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"}


@dataclass(frozen=True, slots=True)
class Rules:
    """How one language is written.

    `alphabet`: the letters that stay, in lower case; any other is spelt with them where that is possible
    (œ as oe, a foreign ñ as n), and refused where it is not. `apostrophe`: kept inside a word, else
    dropped. `elisions`: words whose final apostrophe joins the next word even across spaces (l' eau, l 'eau).
    `enclitics`: patterns of words that join the one before them (it 's). `clitics`: words that keep an apostrophe
    at their edge (po', 's). `accents`: a function that replaces apostrophes by accents (see accents.py). `digits`:
    "refuse" the sentence, or "keep" 0-9 as they stand. `case`: "lower" or "upper" output.
    """

    name: str
    alphabet: str
    apostrophe: bool = True
    elisions: tuple[str, ...] = ()
    enclitics: tuple[str, ...] = ()
    clitics: tuple[str, ...] = ()
    accents: Callable[[Sequence[str], Sequence[str]], list[str]] | None = None
    digits: str = "refuse"
    case: str = "lower"


LANGUAGES = {
    "ca": Rules(
        "Catalan",
        _LATIN + "àçèéíïòóúü·",  # the dot between two l alone
        elisions=tuple("dlmnst"),
        enclitics=("'l", "'ls", "'m", "'n", "'ns", "'s", "'t"),
    ),
    "de": Rules("German", _LATIN + "äöüß", apostrophe=False),
    "en": Rules(
        "English",
        _LATIN,
        enclitics=("'s", "'m", "'re", "'ve", "'d", "'ll", "(?<=n )'t", "'clock"),
        clitics=("'cause", "'em", "'til", "'tis", "'twas"),
    ),
    "es": Rules("Spanish", _LATIN + "áéíñóúü", apostrophe=False),
    "fr": Rules(
        "French",
        _LATIN + "àâçèéêëîïôùûüÿ",  # œ and æ are written oe and ae
        elisions=(
            *("c", "d", "j", "l", "m", "n", "s", "t", "qu", "jusqu", "lorsqu", "puisqu", "quoiqu"),
            *("quelqu", "presqu", "entr", "aujourd"),
        ),
    ),
    "it": Rules(
        "Italian",
        _LATIN + "àèéìíîòóùú",
        elisions=(
            *("c", "d", "l", "m", "n", "s", "t", "v", "gl", "un", "dell", "all", "nell", "sull", "dall", "coll"),
            *("degl", "agl", "negl", "sugl", "dagl", "quell", "quegl", "quest", "bell", "sant", "tutt", "mezz"),
            *("anch", "neanch", "nient", "senz", "com", "dov", "cos", "quand", "quant", "trent", "vent", "cent"),
        ),
        clitics=(
            *("po'", "mo'", "be'", "di'", "fa'", "va'", "sta'", "da'", "to'", "te'", "ve'", "vo'"),
            *("ne'", "de'", "co'", "que'", "fe'", "ca'"),  # in older prose
        ),
        accents=italian,
    ),
    "nl": Rules("Dutch", _LATIN + "áèéëíïóöúü", clitics=("'s", "'t", "'n", "'k", "'m", "'r")),
    "pt": Rules("Portuguese", _LATIN + "àáâãçéêíóôõúü", elisions=("d",), accents=portuguese),
}
_ELIDED_OR_WHOLE = {"un"}  # a quotation may follow them: un 'amico'


def rules_for(language: str, *, digits: str = "", case: str = "") -> Rules:
    """The rules of `language` ("fr", "pt-BR", ...); `digits` and `case` replace its own if given.

    Raises UserError for a language that the table does not have, or an unknown choice.
    """
    code = re.split("[-_]", language.lower())[0]
    if code not in LANGUAGES:
        names = {name: key for key, rules in LANGUAGES.items() for name in (key, rules.name.lower())}
        nearest = max(names, key=lambda name: difflib.SequenceMatcher(None, code, name).ratio())
        raise UserError(
            f"No text rules for language {language!r}; known are {', '.join(LANGUAGES)}. "
            f"Nearest: {names[nearest]!r}. A new language is one line in asr_fed/data_prep/text.py."
        )
    if digits not in ("", "refuse", "keep") or case not in ("", "lower", "upper"):
        raise UserError(f"digits={digits!r}, case={case!r}: give digits=refuse|keep and case=lower|upper.")
    rules = LANGUAGES[code]
    return dataclasses.replace(rules, digits=digits or rules.digits, case=case or rules.case)


def normalise(text: str, language: str | Rules) -> str | None:
    """One sentence in the letters of its language, with single spaces between words; None if refused.

    Refused are sentences with digits (if the rules say so), with symbols that are read aloud, with letters that the
    alphabet cannot spell, in a wrong encoding, or without any letters.
    """
    rules = rules_for(language) if isinstance(language, str) else language
    if _misread(text):
        return None
    if "·" in rules.alphabet:
        text = _geminate(text)
    spelt = unicodedata.normalize("NFC", text.lower()).translate(_spelling(rules))
    if _REFUSED in spelt:
        return None
    words = _join(spelt, rules).split()
    if rules.accents is not None:
        words = rules.accents(words, rules.clitics)
    bare = (word if word in rules.clitics else word.strip("'") for word in words)
    result = " ".join(word for word in bare if word)
    if not rules.apostrophe:
        result = result.replace("'", "")
    return (result.upper() if rules.case == "upper" else result) or None


def _misread(text: str) -> bool:
    """Whether this is UTF-8 that was read in Windows' encoding (Ã© for é)."""
    try:
        return not text.isascii() and bool(text.encode("cp1252").decode("utf-8"))
    except UnicodeError:
        return False


def _geminate(text: str) -> str:
    """Catalan's l·l, also written with other dots; dots elsewhere become spaces."""
    text = re.sub("[ŀĿ]", lambda letter: unicodedata.normalize("NFKD", letter[0]), text)
    text = re.sub(r"(?<=\wl)[.•‧∙⋅・](?=l\w)|(?<=\wL)[.•‧∙⋅・](?=L\w)", "·", text)
    return re.sub(r"(?<![lL])·|·(?![lL])", " ", text)


def _join(spelt: str, rules: Rules) -> str:
    """Attach apostrophes to their words if spaces or other apostrophes separate them."""
    text = " ".join(spelt.split())
    if rules.elisions:
        behind = "|".join(rules.elisions)
        apart = "|".join(word for word in rules.elisions if word not in _ELIDED_OR_WHOLE)
        text = re.sub(rf"(?<![^ '])({behind})'+ ?'*(?=\w)", r"\1'", text)
        text = re.sub(rf"(?<![^ '])({apart}) '+ ?(?=[{_VOWELS}])", r"\1'", text)
    text = re.sub("'{2,}", " ", text)  # a quotation mark
    for enclitic in rules.enclitics:
        text = re.sub(rf"(?<=\w) ({enclitic})(?![^ ])", r"\1", text)
    letters = "|".join(word[1] for word in rules.clitics if len(word) == 2 and word[0] == "'")
    return re.sub(rf"(?<![^ '])' ({letters})(?![^ ])", r"'\1", text) if letters else text


class _Spelling(dict[int, str]):
    """A table for str.translate that computes the entry of a character when it first occurs."""

    def __init__(self, rules: Rules) -> None:
        super().__init__()
        self.rules = rules

    def __missing__(self, code: int) -> str:
        self[code] = result = _spell(chr(code), self.rules)
        return result


_spelling = functools.lru_cache(_Spelling)


def _spell(char: str, rules: Rules) -> str:
    if char in rules.alphabet:
        return char
    if char in _APOSTROPHES:
        return "'"
    kind = unicodedata.category(char)
    if kind[0] == "N":
        return char if rules.digits == "keep" and char in "0123456789" else _REFUSED
    if kind in ("Cf", "Mn"):  # soft hyphens, joiners, byte order marks, stray accents
        return ""
    if kind[0] == "Z" or char in "\t\n\r−":
        return " "
    if kind[0] == "P":
        return _REFUSED if unicodedata.normalize("NFKC", char) in _SPOKEN_SYMBOLS else " "
    if kind[0] != "L":  # symbols, and control characters from a wrong encoding
        return _REFUSED
    if unicodedata.decomposition(char).startswith("<super>"):  # nº is read as a word of its own
        return _REFUSED
    letters = _LIGATURES.get(char) or unicodedata.normalize("NFKD", char)
    letters = "".join(letter for letter in letters.lower() if unicodedata.category(letter) != "Mn")
    return letters if all(letter in rules.alphabet for letter in letters) else _REFUSED
