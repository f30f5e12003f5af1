"""Folders that SpeechBrain opens: read, and written with the Python and the texts that lie here."""
