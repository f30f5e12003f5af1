"""When two names are equal: of speakers, clients, nodes, utterances, and groups.

Unicode writes many letters in two ways (é is one code point, or e and an accent), and systems differ in which one they
store. Every name from a table, a list, a command line or a message is brought to one form here, so that all other code
can compare names as strings.
"""

import os
import unicodedata
from collections.abc import Iterable

from asr_fed.system.errors import UserError


def identity(name: str) -> str:
    """The form in which a name is kept: composed (Unicode's NFC), without white space around it.

    Names that only look alike stay different: superscripts or ligatures may be meant. See `refuse_look_alikes`.
    """
    return unicodedata.normalize("NFC", name).strip()


def on_disk(path: str) -> str:
    """`path` as it is on the disk: if there is no such file, in the Unicode form that exists, if any.

    Some systems unpack a corpus with decomposed file names, while its table has composed ones.
    """
    forms = () if path.isascii() else (path, *(unicodedata.normalize(form, path) for form in ("NFC", "NFD")))
    return next((form for form in forms if os.path.exists(form)), path)


def looks(name: str) -> str:
    """How a name looks: its compatibility form (Unicode's NFKC unifies full-width letters, ligatures, unusual spaces),
    without invisible characters and repeated spaces.
    """
    visible = (char for char in unicodedata.normalize("NFKC", name) if unicodedata.category(char) != "Cf")
    return " ".join("".join(visible).split())


def refuse_look_alikes(names: Iterable[str], where: str) -> None:
    """Raises UserError if two names look alike: probably they are one speaker, who would be in two parts."""
    seen: dict[str, str] = {}
    for name in sorted(set(names)):
        other = seen.setdefault(looks(name), name)
        if other != name:
            raise UserError(
                f"{where}: the names {other!a} and {name!a} look alike. Write them alike if they are one, and "
                "differently if they are not."
            )
