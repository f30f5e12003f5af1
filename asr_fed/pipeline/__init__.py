"""From a corpus to a report."""
