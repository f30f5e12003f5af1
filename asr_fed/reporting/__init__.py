"""Output of a run for people: progress, tables, figures, pages, trackers."""
