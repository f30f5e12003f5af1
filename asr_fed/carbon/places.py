"""Where electricity comes from: countries with their shares of the clients."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from asr_fed.carbon.constants import Constant, collections, intensity
from asr_fed.system.errors import UserError


@dataclass(frozen=True)
class Place:
    """intensity: the name of the constant for the country's electricity."""

    country: str
    share: float
    intensity: str


def places(constants: dict[str, Constant], collection: str, countries: Mapping[str, float], key: str) -> list[Place]:
    """The countries and their shares, with intensities of the set `collection`. `key` is what errors begin with.

    Raises UserError for an unknown country, and for shares that are not above 0 or do not sum to 1.
    """
    if collection not in collections(constants):
        raise UserError(f"intensities={collection}: it is one of {', '.join(collections(constants))}.")
    check_shares(countries, key)
    return [
        Place(country, share, intensity(constants, collection, country, key)) for country, share in countries.items()
    ]


def check_shares(shares: Mapping[str, float], key: str) -> None:
    """Raises UserError where a share is not above 0, or they do not sum to 1."""
    for name, share in shares.items():
        if not (math.isfinite(share) and share > 0):
            raise UserError(f"{key}.{name}={share:g}: a share must be above 0.")
    if not math.isclose(total := math.fsum(shares.values()), 1, abs_tol=1e-6):
        raise UserError(f"{key}: the shares must sum to 1, and these sum to {total:g}.")
