"""Rounds of federation on Flower's Message API: updates add, nodes host clients."""
