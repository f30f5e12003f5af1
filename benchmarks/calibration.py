"""How often the 95 % interval of a WER covers the true one, and how often each test calls a true null a difference.

    python benchmarks/calibration.py [--trials 2000] [--matched-pairs 300] [--seed 1]

Test sets are drawn whose true WER is known. A speaker says 4 to 16 utterances of 6 words and has a rate of errors of
its own (Beta with mean 20 % and standard deviation 10 %). Two recognisers get that rate times a factor that differs
from speaker to speaker by 15 %: which of them is better is a matter of the speaker, and on average neither is. Half of
the words are hard or easy for both alike. The matched-pairs test takes segments to be independent, which they are not
then; its last column is of recognisers without such factors. The percentile bootstrap over speakers, which many papers
use and this software used once, stands beside for comparison.
"""

import argparse
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from asr_fed.data.manifest import Utterance
from asr_fed.evaluation.matched_pairs import matched_pairs_p, segment_differences
from asr_fed.evaluation.statistics import paired_t, wer_interval
from asr_fed.evaluation.wer import ErrorCounts, Scored, Step

SPEAKERS = (4, 6, 10, 20, 50)
WORDS = 6  # of an utterance
TRUE = 0.2  # mean rate
CONCENTRATION = 15  # of the Beta: its standard deviation is sqrt(TRUE * (1 - TRUE) / (1 + CONCENTRATION))
APART = 0.15  # standard deviation of the logarithm of a recogniser's factor
DRAWS = 1000  # of the bootstrap


@dataclass(frozen=True)
class TestSet:
    """errors: by recogniser, by speaker, whether each word is wrong, [utterances, WORDS]."""

    errors: tuple[list[np.ndarray], list[np.ndarray]]

    def counts(self, recogniser: int) -> list[ErrorCounts]:
        return [ErrorCounts(substitutions=int(wrong.sum()), units=wrong.size) for wrong in self.errors[recogniser]]


def draw(rng: np.random.Generator, speakers: int, apart: float = APART) -> TestSet:
    errors: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for _ in range(speakers):
        shape = (int(rng.integers(4, 17)), WORDS)
        rate = rng.beta(TRUE * CONCENTRATION, (1 - TRUE) * CONCENTRATION)
        common, alike = rng.random(shape), rng.random(shape) < 0.5
        for own in errors:
            factor = np.exp(apart * rng.standard_normal() - apart**2 / 2)  # 1 on average
            own.append(np.where(alike, common, rng.random(shape)) < rate * factor)
    return TestSet(errors)


def bootstrap(rng: np.random.Generator, errors: np.ndarray, words: np.ndarray) -> np.ndarray:
    """2.5th and 97.5th percentile of the rate of speakers drawn with replacement."""
    drawn = rng.integers(len(words), size=(DRAWS, len(words)))
    interval: np.ndarray = np.percentile(errors[drawn].sum(axis=1) / words[drawn].sum(axis=1), [2.5, 97.5])
    return interval


def over_speakers(rng: np.random.Generator, speakers: int, trials: int) -> list[float]:
    """Shares of the trials: covered by interval and bootstrap, true null rejected by paired t and bootstrap."""
    happened = np.zeros((trials, 4))
    for trial in track(range(trials), f"{speakers} speakers", transient=True):
        test_set = draw(rng, speakers)
        a, b = test_set.counts(0), test_set.counts(1)
        interval, (_, p) = wer_interval(a), paired_t(a, b)
        words = np.array([each.units for each in a])
        of_a, of_b = (np.array([each.errors for each in counts]) for counts in (a, b))
        low, high = bootstrap(rng, of_a, words)
        less, more = bootstrap(rng, of_a - of_b, words)
        happened[trial] = (
            interval is not None and interval.low <= 100 * TRUE <= interval.high,
            low <= TRUE <= high,
            p is not None and p < 0.05,
            less > 0 or more < 0,
        )
    return list(happened.mean(axis=0))


def over_segments(rng: np.random.Generator, speakers: int, trials: int, apart: float) -> float:
    """Share of the trials in which the matched-pairs test rejects a true null."""
    rejected = 0
    for _ in track(range(trials), f"{speakers} speakers, segments", transient=True):
        pairs = zip(*draw(rng, speakers, apart).errors, strict=True)
        utterances = [pair for a, b in pairs for pair in zip(a, b, strict=True)]
        p = matched_pairs_p([d for a, b in utterances for d in segment_differences(scored(a), scored(b))])
        rejected += p is not None and p < 0.05
    return rejected / trials


def scored(wrong: np.ndarray) -> Scored:
    """An utterance whose words are substituted where they are wrong."""
    steps = tuple(Step("S" if each else "=", place, place) for place, each in enumerate(wrong))
    return Scored(Utterance("u", 1.0, "", "s", "word " * len(wrong)), "", steps, ErrorCounts())


def main() -> None:
    parser = argparse.ArgumentParser(description="Coverage of intervals and false alarms of tests.")
    parser.add_argument("--trials", type=int, default=2000, help="test sets for each number of speakers (2000)")
    parser.add_argument("--matched-pairs", type=int, default=300, help="of these for the slow test (300)")
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    table = Table(
        title=f"95 % intervals, tests at 0.05: % of {chosen.trials} test sets ({chosen.matched_pairs} for segments)"
    )
    for head in (
        "speakers",
        "interval\ncovers",
        "bootstrap\ncovers",
        "paired t\nrejects",
        "bootstrap\nrejects",
        "segments\nrejects",
        "of same\nrejects",
    ):
        table.add_column(head, justify="right")
    for speakers in SPEAKERS:
        rng = np.random.default_rng([chosen.seed, speakers])
        shares = over_speakers(rng, speakers, chosen.trials)
        shares += [over_segments(rng, speakers, chosen.matched_pairs, apart) for apart in (APART, 0.0)]
        table.add_row(str(speakers), *(f"{100 * share:.1f}" for share in shares))
    Console().print(table)


if __name__ == "__main__":
    main()
