"""What any program needs: errors for users, whole files, processes, checkpoints, randomness. Nothing of speech."""
