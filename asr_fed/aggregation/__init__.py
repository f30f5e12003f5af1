"""Exact sums of updates, the weight of each client, and the server's step. Nothing of Flower."""
