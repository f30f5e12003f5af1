"""One module per corpus; each turns a corpus on disk into `manifest.csv`."""
