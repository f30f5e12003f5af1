"""What a client keeps: as of its round, through kills and other workers, and for its run alone."""

import functools
from pathlib import Path

import numpy as np

from asr_fed.engines.workers import Workers
from asr_fed.federation.client_app import open_worker
from asr_fed.federation.client_store import GENERATIONS, ClientStore
from asr_fed.federation.rounds import run_federation
from asr_fed.model.recogniser import save_recogniser
from asr_fed.runs.experiment import prepare_experiment
from asr_fed.runs.run_dir import begin_run
from tests.federation.inline_pool import InlinePool
from tests.tiny import Corpus, settings, typed_config


def vector(value: float) -> dict[str, np.ndarray]:
    return {"control": np.full(3, value, np.float32)}


def test_a_round_reads_what_earlier_rounds_left(tmp_path: Path) -> None:
    store = ClientStore(tmp_path)
    assert store.read("anne", before=1) == {}
    store.write("anne", 2, vector(2))
    store.write("anne", 5, vector(5))
    assert store.read("anne", before=2) == {}
    for before, expected in ((3, 2), (5, 2), (6, 5), (99, 5)):
        np.testing.assert_array_equal(store.read("anne", before)["control"], vector(expected)["control"])
    assert store.read("bob", before=99) == {}


def test_a_repeated_round_begins_where_it_began_the_first_time(tmp_path: Path) -> None:
    """A server that is killed in round 3 goes on from the checkpoint of round 2, and asks for round 3 again."""
    store = ClientStore(tmp_path)
    for number in (1, 2, 3):
        store.write("anne", number, vector(number))
    again = ClientStore(tmp_path)  # another worker
    np.testing.assert_array_equal(again.read("anne", before=3)["control"], vector(2)["control"])
    again.write("anne", 3, vector(30))
    np.testing.assert_array_equal(store.read("anne", before=4)["control"], vector(30)["control"])


def test_old_rounds_are_thrown_away_and_names_need_not_be_file_names(tmp_path: Path) -> None:
    store = ClientStore(tmp_path)
    for number in range(1, 10):
        store.write("../../née/\0 ", number, vector(number))
    assert len(list(tmp_path.rglob("*.pt"))) == GENERATIONS
    assert all(tmp_path in path.parents for path in tmp_path.rglob("*"))


def test_a_second_run_of_the_same_setup_does_not_go_on_from_what_clients_keep_of_the_first(
    corpus: Corpus, prepared: Path, tmp_path: Path
) -> None:
    """A node has one folder for a setup, whatever runs it takes part in."""
    words = (
        "algorithm._target_=asr_fed.algorithms.scaffold.Scaffold",
        "federation.rounds=4",
        "federation.cohort=null",
        "federation.held_out.epochs=0",
    )
    experiment = prepare_experiment(typed_config(settings(corpus, prepared, tmp_path / "run"), *words))
    begin_run(experiment.config)
    save_recogniser(experiment.fresh_recogniser(), experiment.checkpoints / "warm_start.pt")
    node, states = functools.partial(open_worker, str(experiment.run_dir)), []
    for _ in range(2):
        with Workers(InlinePool(node), 1) as workers:
            states.append(run_federation(experiment, workers))
        (experiment.checkpoints / "federation.pt").unlink()  # the server begins again, the node does not
    np.testing.assert_array_equal(*(state.weights for state in states))
    assert states[0].run != states[1].run
