"""The typed configuration of a run and the checks on it."""
