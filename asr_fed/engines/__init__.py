"""Where clients are trained: processes on this machine, a Ray cluster, or real nodes."""
