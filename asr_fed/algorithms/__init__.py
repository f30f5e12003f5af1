"""Federated algorithms, one file each: what a client does, what is summed, what the server makes of the sums."""
