"""Recorded runs, each made once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pipeline.recording import Recording, record
from tests.tiny import Corpus, settings, typed_config

RUNS = {
    "held-out": ("central.start=warm_start", "federation.held_out.epochs=1"),
    "no server training": ("central.start=warm_start", "federation.held_out.epochs=0"),
    "central": ("mode=central", "personalise=false"),
    "replay": (  # everything in the federation twice, each training with settings of its own
        *("federation.held_out.epochs=1", "federation.held_out.replay_warm_up=true"),
        *("federation.rounds=2", "warm_start.epochs=2", "augment.speeds=[0.9,1.0]", "federation.cohort=null"),
        *("loss.ctc_weight=0.6", "loss.label_smoothing=0.05", "precision=bf16", "seed=11"),
        *("warm_start.lr=0.011", "warm_start.clip=1.1", "warm_start.batch.max_utterances=4"),
        *("central.lr=0.012", "central.clip=1.2", "central.batch.max_utterances=5"),
        *("federation.lr=0.13", "federation.clip=1.3", "federation.batch.max_utterances=3"),
        *("federation.held_out.lr=0.14", "federation.held_out.batch.max_utterances=6"),
        *("personalisation.lr=0.015", "personalisation.clip=1.5", "personalisation.batch.max_utterances=2"),
        *("central.optimizer._target_=torch.optim.Adagrad", "personalisation.optimizer._target_=torch.optim.AdamW"),
        *("warm_start.annealing.factor=1.0", "central.annealing.factor=1.0", "federation.annealing.factor=1.0"),
        *("evaluation.client_decoder=ctc_greedy", "evaluation.dev_decoder=attention_greedy"),
        "evaluation.test_decoder=beam",
    ),
}


@pytest.fixture(scope="session")
def recorded(corpus: Corpus, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Recording]:
    """One of RUNS: a whole run, of one round where it is a federation, in which every client holds speech back."""
    made: dict[str, Recording] = {}

    def run(name: str) -> Recording:
        if name not in made:
            config = typed_config(
                settings(corpus, prepared, tmp_path_factory.mktemp("recorded")),
                *("personalise=true", "central.after_federation=true", "evaluation.report_clips=0"),
                *("warm_start.epochs=1", "central.epochs=1", "federation.rounds=1", "personalisation.epochs=1"),
                *("federation.clients.dev_fraction=0.3", "federation.clients.dev_min_utterances=2"),
                "data.parts.max_train_seconds=1.2",
                *RUNS[name],
            )
            made[name] = record(config)
        return made[name]

    return run
