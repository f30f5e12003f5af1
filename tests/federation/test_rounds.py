"""The rounds, over a grid in this process: annealing, best weights, fallback, held-out training, resuming."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import Context, Error, Message, MessageType, RecordDict
from omegaconf import OmegaConf

from asr_fed.aggregation.prior import Prior
from asr_fed.aggregation.weighting import Measured, Uniform, Weighting, WerSoftmax
from asr_fed.config.files import experiments_folder
from asr_fed.federation.client_app import build_client_app, client_size
from asr_fed.federation.held_out import train_on_server
from asr_fed.federation.rounds import run_federation
from asr_fed.federation.shared_config import shared_config
from asr_fed.federation.state import FederationState, load_federation
from asr_fed.model.recogniser import load_recogniser, save_recogniser
from asr_fed.model.state import read_state
from asr_fed.runs.experiment import Experiment
from asr_fed.runs.records import RoundRecord
from asr_fed.system.errors import UserError
from asr_fed.training.annealing import NewBob, anneal
from asr_fed.wire.flower_private import identify_process, set_message_id
from asr_fed.wire.hosts import RemoteNodes
from asr_fed.wire.messages import Report
from asr_fed.wire.rounds import read_order
from tests.federation.plain_node import PlainNode
from tests.runs.test_run_dir import LATER
from tests.tiny import TIMED, Corpus, settings, typed_config


class Interrupted(Exception):
    pass


class InProcess:
    """Two nodes in this process, or more; a reply is there as soon as it is asked for.

    Each hosts every client, or, `pinned`, node 1 has the first, third and fifth as its own and node 2 the other two.
    """

    def __init__(
        self,
        experiment: Experiment,
        weighting: Weighting | None = None,
        *,
        pinned: bool = False,
        nodes: int = 2,
    ) -> None:
        identify_process(run_id=1, node_id=0)
        self.plain = PlainNode.of(experiment, weighting or Uniform())
        setup = shared_config(experiment, self.plain.training.model).sha256
        every = {name: client_size(client) for name, client in self.plain.clients.items()}
        self.apps = {}
        for node in range(1, nodes + 1):
            hosted = {name: every[name] for name in list(every)[node - 1 :: nodes]} if pinned else every
            report = Report(str(node), pinned, setup, hosted)
            self.apps[node] = build_client_app(
                self.plain.train, report, self.plain.shape, personalise=self.plain.personalise
            )
        self.waiting: dict[str, Message] = {}
        self.rates: dict[str, float] = {}  # by round
        self.nodes = list(self.apps)
        self.pushed = 0

    def get_node_ids(self) -> Iterable[int]:
        return self.nodes

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            self.pushed += 1
            set_message_id(message, str(self.pushed))
            self.waiting[str(self.pushed)] = message
            ids.append(str(self.pushed))
            if message.metadata.message_type == MessageType.TRAIN:
                self.rates[message.metadata.group_id] = read_order(message, self.plain.shape.sent).lr
        return ids

    def answer(self, message: Message) -> Message | None:
        """None: not yet."""
        node = message.metadata.dst_node_id
        return self.apps[node](message, Context(1, node, {}, RecordDict(), {}))

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        answers = {name: self.answer(self.waiting[name]) for name in message_ids if name in self.waiting}
        for name, answer in answers.items():
            if answer is not None:
                del self.waiting[name]
        return [answer for answer in answers.values() if answer is not None]


@pytest.fixture
def make(experiment: Experiment, corpus: Corpus, prepared: Path, tmp_path: Path) -> Callable[..., Experiment]:
    """The session's experiment with other settings and a run directory of its own."""

    def changed(*changes: str, name: str = "run") -> Experiment:
        # A corpus this small leaves every WER at its ceiling, where the annealing would wait.
        always = ("federation.cohort=2", "federation.annealing.ceiling=1000.0")
        config = typed_config(settings(corpus, prepared, tmp_path / name), *always, *changes)
        own = replace(experiment, config=config, run_dir=tmp_path / name)
        save_recogniser(own.fresh_recogniser(), own.checkpoints / "warm_start.pt")
        return own

    return changed


def run(experiment: Experiment, **more: Any) -> FederationState:
    return run_federation(experiment, RemoteNodes(InProcess(experiment)), **more)  # type: ignore[arg-type]


def untimed(history: Sequence[RoundRecord]) -> list[dict[str, Any]]:
    return [{k: v for k, v in vars(record).items() if k not in TIMED} for record in history]


def best(experiment: Experiment) -> bytes:
    return read_state(load_recogniser(experiment.checkpoints / "federated.pt").model).tobytes()


def test_the_rate_that_clients_get_follows_the_dev_wer(make: Callable[..., Experiment]) -> None:
    experiment = make("federation.rounds=5", "federation.annealing.factor=0.5")
    grid = InProcess(experiment)
    state = run_federation(experiment, RemoteNodes(grid), lambda history: None)  # type: ignore[arg-type]
    still = make("federation.rounds=0", name="still")
    schedule = anneal(NewBob(0.1), run(still).best_wer, experiment.config.federation.annealing)
    for record, rate in zip(state.history, grid.rates.values(), strict=True):
        assert record.lr == rate == schedule.lr
        schedule = anneal(schedule, record.wer, experiment.config.federation.annealing)
    assert len(set(grid.rates.values())) > 1, "the test needs a WER that stands still at times"


def test_without_any_round_the_clients_are_known_and_the_state_is_kept(make: Callable[..., Experiment]) -> None:
    """A deployment reads the state in another process, and the summary tells of the clients."""
    experiment = make("federation.rounds=0")
    state, clients = run(experiment), experiment.partition.clients
    assert (state.round, state.clients) == (0, len(clients)) and len(clients) > 1
    assert state.seconds == pytest.approx(sum(each.duration for client in clients for each in client.train))
    kept = load_federation(experiment.checkpoints / "federation.pt")
    assert (kept.clients, kept.seconds, kept.run) == (state.clients, state.seconds, state.run)
    np.testing.assert_array_equal(kept.result, state.result)
    assert run(replace(experiment, config=make("federation.rounds=2").config)).round == 2, "it goes on from there"


def test_the_planned_fall_comes_on_top_of_the_dev_wers(make: Callable[..., Experiment]) -> None:
    """After the first round no WER is a gain: NewBob halves the rate each time."""
    falls = ("federation.annealing.factor=0.5", "federation.annealing.threshold=100.0", "federation.decay_from=0.5")
    experiment = make("federation.rounds=4", *falls)
    grid = InProcess(experiment)
    state = run_federation(experiment, RemoteNodes(grid))  # type: ignore[arg-type]
    assert [record.annealed_lr for record in state.history] == [0.1, 0.05, 0.025, 0.0125]
    assert list(grid.rates.values()) == [record.lr for record in state.history] == [0.1, 0.05, 0.025, 0.0125 / 2]


def test_the_planned_fall_goes_on_where_it_was(make: Callable[..., Experiment]) -> None:
    falls = ("federation.rounds=3", "federation.decay_from=0", "federation.decay=cosine")
    expected, experiment = run(make(*falls, name="straight")), make(*falls)

    def stop(history: Sequence[RoundRecord]) -> None:
        raise Interrupted

    for _ in range(2):
        with pytest.raises(Interrupted):
            run(experiment, on_round=stop)
    resumed = run(experiment)
    assert untimed(resumed.history) == untimed(expected.history)
    assert resumed.weights.tobytes() == expected.weights.tobytes()
    assert len({record.lr for record in resumed.history}) == 3


def test_what_is_usual_for_a_node_survives_an_interruption(make: Callable[..., Experiment]) -> None:
    """Each of five nodes has one client; half of them have a longer update than the median one."""
    clipped = ("federation.rounds=3", "federation.cohort=null", "federation.robust.clip_median=1")

    def federate(experiment: Experiment, **more: Any) -> FederationState:
        grid = InProcess(experiment, pinned=True, nodes=5)
        return run_federation(experiment, RemoteNodes(grid), **more)  # type: ignore[arg-type]

    def stop(history: Sequence[RoundRecord]) -> None:
        raise Interrupted

    expected, experiment = federate(make(*clipped, name="straight")), make(*clipped)
    for _ in range(2):
        with pytest.raises(Interrupted):
            federate(experiment, on_round=stop)
    resumed = federate(experiment)
    assert resumed.norms == expected.norms and len(resumed.norms) == 3
    assert resumed.weights.tobytes() == expected.weights.tobytes()
    assert untimed(resumed.history) == untimed(expected.history)
    assert all(record.clipped >= 2 for record in resumed.history)


def test_honest_nodes_are_within_the_limit_that_a_deployment_has_by_itself(make: Callable[..., Experiment]) -> None:
    limit = OmegaConf.load(experiments_folder() / "engine" / "deployment.yaml").federation.robust.clip_median
    plain = ("federation.rounds=2", "federation.cohort=null")
    weights = []
    for name, changes in (("off", plain), ("on", (*plain, f"federation.robust.clip_median={limit}"))):
        experiment = make(*changes, name=name)
        grid = InProcess(experiment, pinned=True, nodes=3)
        state = run_federation(experiment, RemoteNodes(grid))  # type: ignore[arg-type]
        assert [record.clipped for record in state.history] == [0, 0]
        weights.append(state.weights.tobytes())
    assert weights[0] == weights[1], "and so no bit is another"


def test_the_best_round_is_kept(make: Callable[..., Experiment]) -> None:
    experiment = make("federation.rounds=4")
    state = run(experiment)
    wers = [record.wer for record in state.history]
    assert state.best_wer <= min(wers)
    if state.best_round:
        assert state.best_wer == wers[state.best_round - 1] == min(wers)
    assert best(experiment) == state.best_weights.tobytes()


def test_the_last_rounds_are_averaged_and_an_interruption_changes_no_bit(make: Callable[..., Experiment]) -> None:
    averaged = ("federation.rounds=4", "federation.average_last=0.5")
    experiment = make(*averaged, name="resumed")
    after: list[np.ndarray] = []

    def interrupt(history: Sequence[RoundRecord]) -> None:
        after.append(load_federation(experiment.checkpoints / "federation.pt").weights)
        raise Interrupted

    for _ in range(4):
        with pytest.raises(Interrupted):
            run(experiment, on_round=interrupt)
    run(experiment)
    mean = ((after[2].astype(np.float64) + after[3]) / 2).astype(np.float32)
    assert best(experiment) == mean.tobytes() and not np.array_equal(after[2], after[3])
    straight = make(*averaged, name="straight")
    run(straight)
    assert best(straight) == best(experiment)


def test_wers_are_shrunk_by_the_round_before_and_an_interruption_changes_no_bit(
    make: Callable[..., Experiment],
) -> None:
    seen: list[Measured] = []
    weighting = WerSoftmax(shrink=True)

    def noted(client: Measured) -> float:
        seen.append(client)
        return weighting(client)

    def federate(experiment: Experiment, **more: Any) -> FederationState:
        return run_federation(experiment, RemoteNodes(InProcess(experiment, noted)), **more)  # type: ignore[arg-type]

    def interrupt(history: Sequence[RoundRecord]) -> None:
        raise Interrupted

    federation = ("federation.cohort=null", "federation.rounds=2")
    expected = federate(make(*federation, name="straight"))
    first, second = seen[:5], seen[5:]
    assert {client.prior for client in first} == {Prior()}
    errors = [client.wer * client.words for client in first]
    [prior] = {client.prior for client in second}
    assert prior.wer == pytest.approx(sum(errors) / sum(client.words for client in first))
    assert expected.history[0].client_wer_deviation == pytest.approx(100 * prior.variance**0.5)
    experiment = make(*federation, name="resumed")
    for _ in range(2):
        with pytest.raises(Interrupted):
            federate(experiment, on_round=interrupt)
    assert federate(experiment).weights.tobytes() == expected.weights.tobytes()


SERVERS = {
    "FedAdam": ["server={_target_: asr_fed.aggregation.server_optimizer.FedAdam, eta: 0.01}"],
    "Lamb": ["server={_target_: asr_fed.aggregation.server_optimizer.Lamb}", "federation.fallback_after=1"],
}


@pytest.mark.parametrize("name", SERVERS)
def test_interrupted_after_every_round_it_ends_in_the_same_bits(make: Callable[..., Experiment], name: str) -> None:
    straight = make(*SERVERS[name], name="straight")
    expected = run(straight)

    def interrupt(history: Sequence[RoundRecord]) -> None:
        raise Interrupted

    experiment = make(*SERVERS[name], name="resumed")
    for _ in range(experiment.config.federation.rounds):
        with pytest.raises(Interrupted):
            run(experiment, on_round=interrupt)
    state = run(experiment, on_round=interrupt)
    assert untimed(state.history) == untimed(expected.history) and len(state.history) == 3
    assert state.weights.tobytes() == expected.weights.tobytes()
    assert best(experiment) == best(straight)


def test_resumed_with_other_values_of_what_may_change_it_ends_in_the_same_bits(make: Callable[..., Experiment]) -> None:
    start = ("evaluation.test_decoder=beam", "federation.rounds=2")
    straight = run(make(*start, name="straight"))
    experiment = make(*start, name="resumed")

    def interrupt(history: Sequence[RoundRecord]) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        run(experiment, on_round=interrupt)
    later = [change for change in LATER if not change.startswith(("federation.rounds", "tracking", "personalise="))]
    resumed = replace(experiment, config=make(*start, *later, name="resumed").config)
    assert run(resumed).weights.tobytes() == straight.weights.tobytes()


def test_without_gain_the_best_weights_return(make: Callable[..., Experiment]) -> None:
    """A learning rate of almost nothing gains nothing; what moves are BatchNorm's statistics."""
    idle = ("federation.lr=1e-9", "federation.held_out.epochs=0", "federation.rounds=2")
    experiment = make(*idle, "federation.fallback_after=2", name="fallback")
    start = read_state(load_recogniser(experiment.checkpoints / "warm_start.pt").model).tobytes()
    state = run(experiment)
    assert state.weights.tobytes() == start and state.best_round == 0, "as good as the best is no gain"
    assert run(make(*idle, name="no fallback")).weights.tobytes() != start


def test_the_server_trains_on_what_it_holds(make: Callable[..., Experiment]) -> None:
    once = ("federation.rounds=1",)
    states = {
        run(make(*once, *changes, name=str(number))).weights.tobytes()
        for number, changes in enumerate(
            (
                ("federation.held_out.epochs=0",),
                ("federation.held_out.epochs=1",),
                ("federation.held_out.epochs=2",),
                ("federation.held_out.epochs=1", "federation.held_out.batch.max_utterances=1"),
                ("federation.held_out.batch.max_utterances=1", "federation.held_out.steps=1"),
                ("federation.held_out.epochs=1", "federation.held_out.lr=0.1"),
                ("federation.held_out.epochs=1", "federation.held_out.replay_warm_up=true"),
                ("federation.held_out.optimizer={_target_: torch.optim.Adam}",),
            )
        )
    }
    assert len(states) == 8


def test_the_servers_own_optimizer_stays_when_the_clients_changes(make: Callable[..., Experiment]) -> None:
    """What the server trains depends on its own optimizer alone, and on the clients' only where it has none."""

    def trained(clients: str, server: str | None) -> bytes:
        of_server = "null" if server is None else f"{{_target_: torch.optim.{server}}}"
        experiment = make(
            f"federation.optimizer={{_target_: torch.optim.{clients}}}", f"federation.held_out.optimizer={of_server}"
        )
        training = experiment.recognition(experiment.fresh_recogniser(), torch.device("cpu"))
        train_on_server(experiment, training, 1, annealing=1.0)
        return read_state(training.recogniser.model).tobytes()

    assert trained("Adam", "SGD") == trained("SGD", "SGD") == trained("SGD", None)
    assert trained("SGD", "Adam") == trained("Adam", None) != trained("SGD", None)


def test_the_servers_rate_falls_with_the_clients_where_told(make: Callable[..., Experiment]) -> None:
    """After the first round no WER is a gain: the second one's rate is half the first's."""
    falls = ("federation.rounds=2", "federation.annealing.factor=0.5", "federation.annealing.threshold=100.0")
    steady, falling = (
        run(make(*falls, f"federation.held_out.annealed={told}", name=told)) for told in ("false", "true")
    )
    rates = [record.lr for record in falling.history]
    assert rates == [0.1, 0.05] == [record.lr for record in steady.history]
    assert steady.weights.tobytes() != falling.weights.tobytes()


def test_the_servers_annealed_rate_is_its_own_times_the_share_that_the_clients_have(
    make: Callable[..., Experiment],
) -> None:
    def trained(lr: float, annealed: bool, annealing: float) -> bytes:
        experiment = make(f"federation.held_out.lr={lr}", f"federation.held_out.annealed={annealed}")
        training = experiment.recognition(experiment.fresh_recogniser(), torch.device("cpu"))
        train_on_server(experiment, training, 1, annealing=annealing)
        return read_state(training.recogniser.model).tobytes()

    plain = trained(0.01, False, 0.25)
    assert plain == trained(0.01, True, 1.0) == trained(0.04, True, 0.25) != trained(0.01, True, 0.25)


def test_evaluation_is_as_rare_as_told_but_never_misses_the_end(make: Callable[..., Experiment]) -> None:
    state = run(make("federation.rounds=3", "federation.evaluate_every=2"))
    assert [record.wer is not None for record in state.history] == [False, True, True]


def test_a_last_round_between_two_evaluations_does_not_steer(make: Callable[..., Experiment]) -> None:
    """Nothing is ever gained, and no WER is a gain for the annealing either: at every chance the rate falls and the
    best weights return.
    """
    often = ("federation.evaluate_every=2", "federation.fallback_after=1", "federation.annealing.threshold=100.0")
    idle = (*often, "federation.lr=1e-9", "federation.held_out.epochs=0", "federation.annealing.factor=0.5")
    straight, ended = make(*idle, "federation.rounds=4", name="straight"), make(*idle, "federation.rounds=3")
    expected, last = run(straight), run(ended)
    assert [record.wer is not None for record in last.history] == [False, True, True]
    assert last.newbob.lr == 0.5e-9, "once, after the second round"
    assert last.weights.tobytes() != last.best_weights.tobytes(), "they have returned"
    ended.config.federation.rounds = 4
    longer = run(ended)
    assert longer.weights.tobytes() == expected.weights.tobytes() == expected.best_weights.tobytes()
    assert longer.newbob == expected.newbob
    assert [record.lr for record in longer.history] == [record.lr for record in expected.history]


def test_a_round_without_any_update_stops_the_run_by_name_and_can_be_resumed(
    make: Callable[..., Experiment],
) -> None:
    experiment = make()
    broken = InProcess(experiment, weighting=lambda result: float("nan"))
    with pytest.raises(UserError, match=r"Round 1 failed 2 times: 0% .* of 2 clients.*a weight of nan"):
        run_federation(experiment, RemoteNodes(broken))  # type: ignore[arg-type]
    assert len(run(experiment).history) == 3


def burnt_down(message: Message) -> Message:
    return Message(Error(1, "the silo burnt down"), reply_to=message)


class WithAFault(InProcess):
    """Node 2, with two of the five clients, answers as `fault` says."""

    def __init__(self, experiment: Experiment, fault: Callable[[Message], Message | None]) -> None:
        super().__init__(experiment, pinned=True)
        self.fault = fault

    def answer(self, message: Message) -> Message | None:
        if message.metadata.dst_node_id == 2 and message.metadata.message_type == MessageType.TRAIN:
            return self.fault(message)
        return self.whole(message)

    def whole(self, message: Message) -> Message | None:
        return super().answer(message)


@pytest.fixture
def make_all(make: Callable[..., Experiment]) -> Callable[..., Experiment]:
    """All clients in every round."""
    return lambda *changes, **more: make("federation.cohort=null", *changes, **more)


def test_a_round_counts_with_enough_of_its_cohort(make_all: Callable[..., Experiment]) -> None:
    experiment = make_all("federation.min_success=0.6")
    state = run_federation(experiment, RemoteNodes(WithAFault(experiment, burnt_down)))  # type: ignore[arg-type]
    for record in state.history:
        assert (record.success, record.clients, record.attempts) == (pytest.approx(0.6), 3, 1)
        assert list(record.failures.values()) == ["the silo burnt down"] * 2


def test_a_round_with_too_little_of_its_cohort_is_tried_again_and_then_stops_the_run(
    make_all: Callable[..., Experiment],
) -> None:
    fell: list[Message] = []

    def once(message: Message) -> Message | None:
        fell.append(message)
        return burnt_down(message) if len(fell) == 1 else grid.whole(message)

    strict = make_all("federation.min_success=0.9", "federation.rounds=1")
    grid = WithAFault(strict, once)
    assert [record.attempts for record in run_federation(strict, RemoteNodes(grid)).history] == [2]  # type: ignore[arg-type]
    strict = make_all("federation.min_success=0.9", "federation.rounds=1", name="second")
    with pytest.raises(UserError, match=r"Round 1 failed 2 times: 60% .*min_success is 90%.*burnt down.*resumed"):
        run_federation(strict, RemoteNodes(WithAFault(strict, burnt_down)))  # type: ignore[arg-type]


def test_a_round_closes_in_time_and_a_late_update_is_dropped_and_counted(make_all: Callable[..., Experiment]) -> None:
    """The second node's answer to round 1 comes when round 2 has been asked for."""
    experiment = make_all("federation.round_timeout=0.1", "federation.rounds=3")

    def late(message: Message) -> Message | None:
        return None if message.metadata.group_id == "1" and "2" not in grid.rates else grid.whole(message)

    grid = WithAFault(experiment, late)
    history = run_federation(experiment, RemoteNodes(grid)).history  # type: ignore[arg-type]
    assert [record.clients for record in history] == [3, 5, 5]
    assert [record.dropped for record in history] == [0, 1, 0]
    assert list(history[0].failures.values()) == ["its node did not answer in time"] * 2


def test_an_update_given_twice_counts_once(make_all: Callable[..., Experiment]) -> None:
    """Node 2 repeats its answer to round 1 in every round."""
    experiment = make_all("federation.rounds=3")
    first: list[Message] = []

    def replay(message: Message) -> Message | None:
        first.append(grid.whole(message))  # type: ignore[arg-type]
        return Message(first[0].content, reply_to=message)

    grid = WithAFault(experiment, replay)
    history = run_federation(experiment, RemoteNodes(grid)).history  # type: ignore[arg-type]
    assert [record.clients for record in history] == [5, 3, 3]
    assert [record.dropped for record in history] == [0, 1, 1]


FORGERIES: dict[str, tuple[str, str, object, str]] = {
    "a weight beyond its bound": ("weights", "delta", 3 << 32, "a weight of 3 for 2 client"),
    "a weight below its bound": ("weights", "delta", 1 << 32, "a weight of 1 for 2 client"),
    "a peak that is too low": ("peaks", "delta", 0, "peak"),
    "a peak that leaves no room for others": ("peaks", "delta", (1 << 62) - 1, "too large to be added to those of 5"),
    "more clients than it was asked for": ("totals", "clients", "3", "3 clients for 2"),
    "a WER that cannot be": ("totals", "word_errors", "-4", "word_errors"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forged_update_is_refused_and_harms_nobody(name: str, make_all: Callable[..., Experiment]) -> None:
    record, key, value, reason = FORGERIES[name]

    def forge(message: Message) -> Message | None:
        reply = grid.whole(message)
        reply.content[record][key] = value  # type: ignore
        return reply

    experiment = make_all("federation.rounds=1", "weighting={_target_: asr_fed.aggregation.weighting.Uniform}")
    grid = WithAFault(experiment, forge)
    state = run_federation(experiment, RemoteNodes(grid))  # type: ignore[arg-type]
    reasons = list(state.history[0].failures.values())
    assert len(reasons) == 2 and all(text.startswith("refused: ") and reason in text for text in reasons)
    without = make_all("federation.rounds=1", name="without")
    assert (
        run_federation(without, RemoteNodes(WithAFault(without, burnt_down))).weights.tobytes()
        == state.weights.tobytes()
    )  # type: ignore[arg-type]


def test_a_node_that_leaves_takes_nobody_along_whom_another_hosts(make_all: Callable[..., Experiment]) -> None:
    straight = run(make_all("federation.rounds=2", name="whole"))
    experiment = make_all("federation.rounds=2")
    grid = InProcess(experiment)

    def leave(history: Sequence[RoundRecord]) -> None:
        grid.nodes = [1]

    state = run_federation(experiment, RemoteNodes(grid), leave)  # type: ignore[arg-type]
    assert [record.clients for record in state.history] == [5, 5]
    assert [share.node for share in state.history[1].workers] == [1]
    assert state.weights.tobytes() == straight.weights.tobytes()


def test_a_silo_that_leaves_is_missed_until_it_is_back(make_all: Callable[..., Experiment]) -> None:
    experiment = make_all("federation.rounds=3")
    grid = InProcess(experiment, pinned=True)

    def leave_and_return(history: Sequence[RoundRecord]) -> None:
        grid.nodes = [1] if len(history) == 1 else [1, 2]

    history = run_federation(experiment, RemoteNodes(grid), leave_and_return).history  # type: ignore[arg-type]
    assert [record.clients for record in history] == [5, 3, 5]
    assert list(history[1].failures.values()) == ["no node that hosts it is there"] * 2


def test_over_commitment_takes_the_first_updates_that_hold_a_cohort(make: Callable[..., Experiment]) -> None:
    experiment = make("federation.rounds=1", "federation.over_commit=1.6", "federation.cohort=3")
    grid = WithAFault(experiment, lambda message: None)  # never answers, and there is no timeout
    [record] = run_federation(experiment, RemoteNodes(grid)).history  # type: ignore[arg-type]
    assert record.clients == 3 and record.success == 1.0
    assert list(record.failures.values()) == ["its node did not answer in time"] * 2


@pytest.mark.parametrize("claim", ["abc", "1000000", "3"])
def test_an_over_committed_round_counts_no_client_that_a_liar_claims(
    claim: str, make: Callable[..., Experiment]
) -> None:
    """Node 2, with two of the five clients, answers first and says that it has trained so many."""
    experiment = make("federation.rounds=1", "federation.over_commit=1.6", "federation.cohort=3")

    def boast(message: Message) -> Message | None:
        reply = grid.whole(message)
        reply.content["totals"]["clients"] = claim  # type: ignore[union-attr, index, call-overload]
        return reply

    class LiarFirst(WithAFault):
        def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
            waiting = {name: self.waiting[name].metadata for name in message_ids if name in self.waiting}
            liar = [name for name, sent in waiting.items() if (sent.dst_node_id, sent.message_type) == (2, "train")]
            return super().pull_messages(liar or message_ids)

    grid = LiarFirst(experiment, boast)
    [record] = run_federation(experiment, RemoteNodes(grid)).history  # type: ignore[arg-type]
    assert record.clients == 3 and record.success == 1.0
    assert len(record.failures) == 2 and all(text.startswith("refused: ") for text in record.failures.values())
