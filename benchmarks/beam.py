"""Our joint beam search against SpeechBrain's searcher over the test speech of a finished run.

    python benchmarks/beam.py RUN_DIR [--system federated] [--utterances 24] [--beam-size 10]

SpeechBrain's searches each utterance alone (in a batch it would search those that end first deeper, so that a
hypothesis would depend on its neighbours); ours all of them, as the final test of a run does. Both get the same encoder
states, in turns. Times are CPU milliseconds of one thread a second of speech, medians; the ratio is computed within
each repetition. It also says how many hypotheses differ.
"""

import argparse
import statistics
from pathlib import Path
from time import process_time
from typing import Any

import torch
from rich.console import Console


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Time of the joint beam search, ours against SpeechBrain's.")
    parser.add_argument("run_dir", type=Path, help="of a run that has ended")
    parser.add_argument("--system", default="federated", help="which of its recognisers")
    parser.add_argument("--utterances", type=int, default=24)
    parser.add_argument("--beam-size", type=int, default=10)
    parser.add_argument("--repetitions", type=int, default=3)
    chosen = parser.parse_args()

    from asr_fed.config.schema import EvaluationConfig
    from asr_fed.data.batching import collate
    from asr_fed.model.joint_search import beam_search
    from asr_fed.model.recogniser import load_recogniser
    from asr_fed.runs.experiment import open_experiment

    torch.set_num_threads(1)
    experiment = open_experiment(chosen.run_dir)
    recogniser = load_recogniser(experiment.checkpoints / f"{chosen.system}.pt")
    model = recogniser.model.eval()
    speech = experiment.partition.test[:: max(1, len(experiment.partition.test) // chosen.utterances)]
    seconds = sum(utterance.duration for utterance in speech)
    config = EvaluationConfig(beam_size=chosen.beam_size)
    times: dict[str, list[float]] = {"SpeechBrain": [], "ours": []}
    with torch.no_grad():
        states, counts = model.encode(collate(speech, experiment.cache, recogniser.tokenizer))
        for _ in range(chosen.repetitions):
            started = process_time()
            theirs = [speechbrain(model, states[row : row + 1, :count], config) for row, count in enumerate(counts)]
            between = process_time()
            ours = beam_search(model, states, counts, config)
            times["SpeechBrain"].append(between - started)
            times["ours"].append(process_time() - between)
    ratios = [a / b for a, b in zip(times["SpeechBrain"], times["ours"], strict=True)]
    differ = sum(a != b for a, b in zip(ours, theirs, strict=True))
    middle = {who: 1000 * statistics.median(each) / seconds for who, each in times.items()}
    Console().print(
        f"{len(speech)} utterances of {seconds / len(speech):.1f} s, beam {chosen.beam_size}: SpeechBrain "
        f"{middle['SpeechBrain']:.1f}, ours {middle['ours']:.1f} ms a second of speech, ratio "
        f"{statistics.median(ratios):.1f} ({min(ratios):.1f}-{max(ratios):.1f}); {differ} hypotheses differ"
    )


def speechbrain(model: Any, states: torch.Tensor, config: Any) -> list[int]:
    """The hypothesis of one utterance by SpeechBrain's own searcher."""
    from speechbrain.decoders.scorer import CTCScorer, ScorerBuilder

    from asr_fed.data.tokenizer import BLANK, BOS, EOS
    from asr_fed.model.beam import BeamSearcher

    ctc = CTCScorer(ctc_fc=model.ctc_head, blank_index=BLANK, eos_index=EOS)
    searcher = BeamSearcher(
        embedding=model.embedding,
        decoder=model.decoder,
        linear=model.decoder_head,
        bos_index=BOS,
        eos_index=EOS,
        min_decode_ratio=0.0,
        max_decode_ratio=1.0,
        beam_size=config.beam_size,
        eos_threshold=config.beam_eos_threshold,
        scorer=ScorerBuilder(full_scorers=[ctc], weights={"ctc": config.beam_ctc_weight}),
    )
    tokens = searcher(states, torch.ones(1))[0][0]
    model.decoder.attn.reset()
    return [int(token) for token in tokens]


if __name__ == "__main__":
    main()
