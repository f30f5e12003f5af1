"""Transcripts as a recogniser wants them: one table of rules, one line a language.

`normalise` either spells a sentence with the letters of its language, or refuses it: a sentence whose
spoken form is not certain (digits, "%", "€", a foreign script) would teach the model a wrong transcript.
"""

import dataclasses
import difflib
import functools
import re
import unicodedata
from dataclasses import dataclass

from asr_fed.system.errors import UserError

_LATIN = "abcdefghijklmnopqrstuvwxyz"
_REFUSED = "\0"
_APOSTROPHES = "'’‘‛ʼʹ′´`"
_SPOKEN_SYMBOLS = "%‰&@#§"  # punctuation by Unicode category, but read aloud

# How a letter is spelt in a language that does not have it. Letters with a plain accent need no entry.
_LIGATURES = {"œ": "oe", "æ": "ae", "ß": "ss", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "ı": "i"}


@dataclass(frozen=True, slots=True)
class Rules:
    """How one language is written.

    `alphabet`: the letters that stay, in lower case; any other is spelt with them where that is possible
    (œ as oe, a foreign ñ as n), and refused where it is not. `apostrophe`: kept inside a word, else
    dropped. `elisions`: words whose final apostrophe joins the next word even across a space (l' eau).
    `clitics`: words that keep an apostrophe at their edge (po', 's). `digits`: "refuse" the sentence, or
    "keep" 0-9 as they stand. `case`: "lower" or "upper" output.
    """

    name: str
    alphabet: str
    apostrophe: bool = True
    elisions: tuple[str, ...] = ()
    clitics: tuple[str, ...] = ()
    digits: str = "refuse"
    case: str = "lower"


LANGUAGES = {
    "ca": Rules("Catalan", _LATIN + "àçèéíïòóúü·", elisions=tuple("dlmnst")),
    "de": Rules("German", _LATIN + "äöüß", apostrophe=False),
    "en": Rules("English", _LATIN, clitics=("'cause", "'em", "'til", "'tis", "'twas")),
    "es": Rules("Spanish", _LATIN + "áéíñóúü", apostrophe=False),
    "fr": Rules(
        "French",
        _LATIN + "àâçèéêëîïôùûüÿ",  # œ and æ are written oe and ae
        elisions=(*"cdjlmnst", "qu", "jusqu", "lorsqu", "puisqu", "quoiqu"),
    ),
    "it": Rules(
        "Italian",
        _LATIN + "àèéìíîòóùú",
        elisions=(*"cdlmstv", "un", "dell", "all", "nell", "sull", "dall", "quell", "quest"),
        clitics=("po'", "mo'", "be'", "di'", "fa'", "va'", "sta'", "da'"),
    ),
    "nl": Rules("Dutch", _LATIN + "áèéëíïóöúü", clitics=("'s", "'t", "'n", "'k", "'m", "'r")),
    "pt": Rules("Portuguese", _LATIN + "àáâãçéêíóôõúü"),
}


def rules_for(language: str, *, digits: str = "", case: str = "") -> Rules:
    """The rules of `language` ("fr", "pt-BR", ...), with `digits` and `case` in place of its own where given.

    Raises UserError for a language that the table does not have, or an unknown choice.
    """
    code = re.split("[-_]", language.lower())[0]
    if code not in LANGUAGES:
        names = {name: key for key, rules in LANGUAGES.items() for name in (key, rules.name.lower())}
        nearest = max(names, key=lambda name: difflib.SequenceMatcher(None, code, name).ratio())
        raise UserError(
            f"No text rules for language {language!r}; known are {', '.join(LANGUAGES)}. "
            f"Nearest: {names[nearest]!r}. A new language is one line in data_prep/text.py."
        )
    if digits not in ("", "refuse", "keep") or case not in ("", "lower", "upper"):
        raise UserError(f"digits={digits!r}, case={case!r}: give digits=refuse|keep and case=lower|upper.")
    rules = LANGUAGES[code]
    return dataclasses.replace(rules, digits=digits or rules.digits, case=case or rules.case)


def normalise(text: str, language: str | Rules) -> str | None:
    """One sentence in the letters of its language, words parted by single spaces; None where refused.

    Refused are sentences with digits (where the rules say so), with symbols that are read aloud, with
    letters that the alphabet cannot spell, and those of which nothing is left.
    """
    rules = rules_for(language) if isinstance(language, str) else language
    spelt = unicodedata.normalize("NFC", text.lower()).translate(_spelling(rules))
    if _REFUSED in spelt:
        return None
    words = _join_apostrophes(re.sub("'{2,}", " ", spelt).split(), rules)
    result = " ".join(words)
    return (result.upper() if rules.case == "upper" else result) or None


def _join_apostrophes(words: list[str], rules: Rules) -> list[str]:
    """Part apostrophes that belong to a word from those that were quotation marks."""
    joined, prefix = [], ""
    for word in words:
        bare = word if word in rules.clitics and not prefix else word.strip("'·")
        if word.endswith("'") and bare in rules.elisions:
            prefix += f"{bare}'"
        elif bare:
            joined.append(prefix + bare)
            prefix = ""
    return [*joined, prefix.rstrip("'")] if prefix else joined


class _Spelling(dict[int, str]):
    """A table for str.translate that works out each character once, when it first occurs."""

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
        return "'" if rules.apostrophe else ""
    kind = unicodedata.category(char)
    if kind[0] == "N":
        return char if rules.digits == "keep" and char in "0123456789" else _REFUSED
    if kind in ("Cf", "Mn"):  # soft hyphens, joiners, byte order marks, stray accents
        return ""
    if kind[0] == "Z" or char in "\t\n\r−":
        return " "
    if kind[0] == "P":
        return _REFUSED if unicodedata.normalize("NFKC", char) in _SPOKEN_SYMBOLS else " "
    if kind[0] != "L":  # symbols, and the control characters that a wrong encoding leaves behind
        return _REFUSED
    letters = _LIGATURES.get(char) or unicodedata.normalize("NFKD", char)
    letters = "".join(letter for letter in letters.lower() if unicodedata.category(letter) != "Mn")
    return letters if all(letter in rules.alphabet for letter in letters) else _REFUSED
