"""One module a corpus; each turns a corpus on disk into `manifest.csv`."""
