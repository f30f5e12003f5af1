"""What is learned: a model, how its batches are made, its loss, and what an evaluation counts."""
