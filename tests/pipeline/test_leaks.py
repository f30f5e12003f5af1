"""Which utterances each stage of a run reads, to the last one: no other client's, no test speech before the test."""

from collections.abc import Callable, Sequence

import pytest

from asr_fed.data.manifest import Utterance
from tests.pipeline.recording import Recording


def ids(*parts: Sequence[Utterance]) -> set[str]:
    return {utterance.id for part in parts for utterance in part}


@pytest.mark.parametrize("name", ["held-out", "replay", "no server training"])
def test_every_stage_of_a_federated_run_reads_its_own_speech_only(
    name: str, recorded: Callable[[str], Recording]
) -> None:
    recording = recorded(name)
    whole = recording.partition
    pooled = [client.train for client in whole.clients]
    server = {
        "held-out": [whole.held_out],
        "replay": [whole.held_out, whole.warm_up],
        "no server training": [],
    }[name]
    # From scratch, as in `replay`, the reference has all speech but dev and test; else what the federation trains on.
    expected = {
        "normaliser": ids(whole.warm_up),
        "warm start training": ids(whole.warm_up),
        "warm start dev": ids(whole.dev),
        "round dev": ids(whole.dev),
        "reference loss": ids(whole.dev),
        "central training": ids(*pooled, *server),
        "central dev": ids(whole.dev),
        "test": ids(whole.test),
    }
    if server:
        expected["held-out training"] = ids(*server)
    for client in whole.clients:
        for stage in ("client", "personalisation"):
            expected[f"{stage} training {client.id}"] = ids(client.train)
            expected[f"{stage} dev {client.id}"] = ids(client.dev)
    assert recording.utterances() == expected

    texts = {utterance.text for utterance in whole.warm_up}
    assert recording.texts == texts
    # What makes the above worth something: every part is there and holds what no other does.
    parts = [*whole.server_parts.values(), whole.dropped["too_long"], *pooled, *(c.dev for c in whole.clients)]
    assert all(parts) and sum(map(len, parts)) == len(ids(*parts))
    assert len(whole.clients) > 1 and not texts.issuperset(utterance.text for utterance in whole.dev)


def test_every_stage_of_a_central_run_reads_its_own_speech_only(recorded: Callable[[str], Recording]) -> None:
    recording = recorded("central")
    whole = recording.partition
    assert recording.utterances() == {
        "normaliser": ids(whole.warm_up),
        "central training": ids(*(client.train for client in whole.clients), whole.held_out, whole.warm_up),
        "central dev": ids(whole.dev),
        "test": ids(whole.test),
    }
    assert recording.texts == {utterance.text for utterance in whole.warm_up}


def test_only_training_hears_other_speeds(recorded: Callable[[str], Recording]) -> None:
    for stage, speeds in recorded("replay").speeds().items():
        assert speeds == ({0.9, 1.0} if stage.endswith("training") else {1.0}), stage
