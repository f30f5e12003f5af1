"""A run directory and the experiment in it."""
