"""Command lines: parsing, and how a command ends. Only the commands themselves import this room."""
