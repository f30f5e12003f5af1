"""The former name of asr_fed.data_prep. In a checkout, imports and `python -m` of its modules still work by it."""

import asr_fed.data_prep

__path__ = asr_fed.data_prep.__path__
