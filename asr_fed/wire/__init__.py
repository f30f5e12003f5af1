"""Messages as dataclasses and as Flower's records, and the checks on everything that comes from outside."""
