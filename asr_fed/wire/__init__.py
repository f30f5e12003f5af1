"""Messages as dataclasses and as Flower's records, with the checks of what comes from outside."""
