"""Accents that were typed as apostrophes, as keyboards without them made usual in Italian: E' piu' bella.

An apostrophe behind a vowel at the end of a word is one of three things: an accent (citta'), the mark of a word cut
short (un po'), or a quotation mark ('la vita'). Words cut short are few and listed; a quotation has a beginning.
"""

import re
from collections.abc import Callable, Mapping, Sequence

# No quotation ends behind these: without the accent they are no words, or too weak to end one.
ITALIAN = {
    **{"e": "è", "piu": "più", "puo": "può", "gia": "già", "giu": "giù", "cio": "ciò", "percio": "perciò"},
    **{"cosi": "così", "cioe": "cioè", "citta": "città", "gesu": "gesù", "virtu": "virtù"},
    **{f"{day}di": f"{day}dì" for day in ("lune", "marte", "mercole", "giove", "vener")},
    **{f"{stem}che": f"{stem}ché" for stem in ("per", "poi", "ben", "fin", "affin", "giac", "pur", "anzi", "non")},
    **{f"{stem}che": f"{stem}ché" for stem in ("sic", "cosic", "mac", "gran", "presso", "dopodi")},
}
PORTUGUESE = {"e": "é"}

_ACUTE, _GRAVE = str.maketrans("aeiou", "àéìòù"), str.maketrans("aeiou", "àèìòù")
_SHORT = {"la", "li", "si", "se", "pie", "noe", "creo"}  # of one group of vowels, of which the last is stressed
_OPEN_E = {
    *("pie", "noe", "mose", "giosue", "caffe", "pure", "ahime", "ohime", "vabbe", "embe", "aspe"),
    *("bebe", "bigne", "canape", "gile", "lacche", "rele"),
}
# Begin with an apostrophe that opens no quotation: dialect, and words that came from it.
_CUT_IN_FRONT = {*("'ndrangheta", "'ndrine", "'sta", "'sto", "'ste", "'sti"), *("'l", "'n", "'na", "'no", "'o", "'a")}


def italian(words: Sequence[str], cut_short: Sequence[str]) -> list[str]:
    """The words of a sentence with accents in place of the apostrophes that stand for them.

    Args:
        words: in lower case, with all their apostrophes.
        cut_short: words that end in an apostrophe of their own, such as po'.
    """
    restored = _restore(words, cut_short, ITALIAN, _stressed_on_the_last)
    # ne' is nei of older prose, but né where the writer has no other way to write an accent.
    return ["né" if word == "ne'" else word for word in restored] if restored != list(words) else restored


def portuguese(words: Sequence[str], cut_short: Sequence[str]) -> list[str]:
    """As `italian`, but only E' for É, which typewriters made usual."""
    return _restore(words, cut_short, PORTUGUESE, lambda tail: "")


def _restore(
    words: Sequence[str], cut_short: Sequence[str], certain: Mapping[str, str], likely: Callable[[str], str]
) -> list[str]:
    restored: list[str] = []
    quoted = False
    for word in _parted(words, certain):
        quoted = quoted or (word.startswith("'") and word not in _CUT_IN_FRONT and word not in cut_short)
        front, _, tail = word.rstrip("'").rpartition("'")
        accented = ""
        if word.endswith("'") and word not in cut_short and word != "'e'":  # the letter, quoted
            accented = certain.get(tail) or ("" if quoted else likely(tail))
            quoted = quoted and bool(accented)  # else the quotation ends here
        restored.append(f"{front}'{accented}" if accented and "'" in word.rstrip("'") else accented or word)
    return restored


def _parted(words: Sequence[str], certain: Mapping[str, str]) -> list[str]:
    """E'stata is two words."""
    return re.sub(rf"(?<![^ '])({'|'.join(certain)})'(?=\w\w)", r"\1' ", " ".join(words)).split()


def _stressed_on_the_last(tail: str) -> str:
    """The Italian word with an accent on its last vowel; empty where that is not plain, or cannot bear one."""
    syllables = len(re.findall("[aeiouàèéìíòóùú]+", tail))
    if not tail or tail[-1] not in "aeiou" or (syllables < 2 and tail not in _SHORT):
        return ""
    return tail[:-1] + tail[-1].translate(_GRAVE if tail in _OPEN_E else _ACUTE)
