"""General parts: errors for users, whole files, processes, checkpoints, randomness. Nothing about speech."""
