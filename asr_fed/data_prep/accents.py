"""Accents that were typed as apostrophes, which is usual in Italian on keyboards without accents: E' piu' bella.

An apostrophe after the last vowel of a word is one of three things: an accent (citta'), the mark of a shortened word
(un po'), or a quotation mark ('la vita'). Shortened words are few and listed here; a quotation also has an opening
mark.
"""

import re
from collections.abc import Callable, Mapping, Sequence

# No quotation ends after these: without the accent they are no words, or cannot end a phrase.
ITALIAN = {
    **{"e": "è", "piu": "più", "puo": "può", "gia": "già", "giu": "giù", "cio": "ciò", "percio": "perciò"},
    **{"cosi": "così", "cioe": "cioè", "citta": "città", "gesu": "gesù", "virtu": "virtù"},
    **{f"{day}di": f"{day}dì" for day in ("lune", "marte", "mercole", "giove", "vener")},
    **{f"{stem}che": f"{stem}ché" for stem in ("per", "poi", "ben", "fin", "affin", "giac", "pur", "anzi", "non")},
    **{f"{stem}che": f"{stem}ché" for stem in ("sic", "cosic", "mac", "gran", "presso", "dopodi")},
}
PORTUGUESE = {"e": "é"}

_ACUTE, _GRAVE = str.maketrans("aeiou", "àéìòù"), str.maketrans("aeiou", "àèìòù")
_SHORT = {"la", "li", "si", "se", "pie", "noe", "creo"}  # words with one group of vowels, stressed on the last one
_OPEN_E = {
    *("pie", "noe", "mose", "giosue", "caffe", "pure", "ahime", "ohime", "vabbe", "embe", "aspe"),
    *("bebe", "bigne", "canape", "gile", "lacche", "rele"),
}
# They begin with an apostrophe that opens no quotation: dialect, and words derived from it.
_CUT_IN_FRONT = {*("'ndrangheta", "'ndrine", "'sta", "'sto", "'ste", "'sti"), *("'l", "'n", "'na", "'no", "'o", "'a")}


def italian(words: Sequence[str], cut_short: Sequence[str]) -> list[str]:
    """The words of a sentence with accents in place of the apostrophes that stand for them.

    Args:
        words: in lower case, with all their apostrophes.
        cut_short: words that end in an apostrophe of their own, such as po'.
    """
    restored = _restore(words, cut_short, ITALIAN, _stressed_on_the_last)
    # ne' is nei in older prose, but né if the writer writes accents as apostrophes.
    return ["né" if word == "ne'" else word for word in restored] if restored != list(words) else restored


def portuguese(words: Sequence[str], cut_short: Sequence[str]) -> list[str]:
    """Like `italian`, but only E' for É, a habit from typewriters."""
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
    """The Italian word with an accent on its last vowel; empty if the last letter is no plain vowel, or takes no
    accent."""
    syllables = len(re.findall("[aeiouàèéìíòóùú]+", tail))
    if not tail or tail[-1] not in "aeiou" or (syllables < 2 and tail not in _SHORT):
        return ""
    return tail[:-1] + tail[-1].translate(_GRAVE if tail in _OPEN_E else _ACUTE)
