"""Recognisers from and for other software."""
