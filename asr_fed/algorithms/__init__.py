"""Federated algorithms, one file each: what a client does, what is summed, what the server does with the sums."""
