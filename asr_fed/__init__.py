"""asr_fed: federated training of end-to-end speech recognisers."""

__version__ = "0.1.0"
