"""Where clients are trained: processes of this machine, a Ray cluster, real nodes."""
