"""Recordings of any length to text with word times: `python -m asr_fed.transcribe`; `transcript.transcribe` in code."""
