"""What people read of a run: progress, tables, figures, pages, trackers."""
