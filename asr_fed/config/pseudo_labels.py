"""Settings of training on a recogniser's own hypotheses, where clients have no transcripts."""

from dataclasses import dataclass

from asr_fed.config.model import Decoder
from asr_fed.config.setting import setting


@dataclass
class PseudoLabelsConfig:
    """Clients train on the federated model's own hypotheses of speech that has no transcript (noisy student, arXiv
    2005.09629). They make them where the speech is, from the weights that they are sent.

    every: rounds for which a client keeps its hypotheses before it makes them again; null: none are made, and speech
        without transcripts is left out.
    decoder: what makes them.
    min_confidence: of a hypothesis that is trained on. It is the geometric mean of its tokens' probabilities by CTC,
        P(hypothesis | speech)^(1 / tokens), from 0 to 1 (length-normalised as in arXiv 1909.09116).
    min_agreement: how alike a hypothesis and those at the other playback speeds (`augment.speeds`, CTC greedy) have to
        be: 1 - character error rate, of the least alike one. 0: they are not compared.
    min_rate, max_rate: characters per second of recording.
    drops: SpecAugment drops so many times as many stretches of time and of mel bands, for clients without transcripts.
    min_utterances: a client with fewer to train on, transcripts and hypotheses together, adds nothing to the round.
    """

    every: int | None = setting(None, at_least=1)
    decoder: Decoder = Decoder.ctc_greedy
    min_confidence: float = setting(0.9, at_least=0, at_most=1)
    min_agreement: float = setting(0.0, at_least=0, at_most=1)
    min_rate: float = setting(1.0, at_least=0)
    max_rate: float = setting(30.0, above=0)
    drops: float = setting(2.0, at_least=1)
    min_utterances: int = setting(1, at_least=1)

    @property
    def on(self) -> bool:
        return self.every is not None
