"""What a node makes of a setup from the network: the same clients as the server would, or nothing at all."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from asr_fed.aggregation.update import DELTA
from asr_fed.aggregation.weighting import NumExamples
from asr_fed.algorithms.fed_avg import FedAvg
from asr_fed.config.schema import TaskConfig, TaskKind
from asr_fed.data.deal import make_client
from asr_fed.data.manifest import Utterance, write_manifest
from asr_fed.data.partition import Client
from asr_fed.data.partition_files import read_partition
from asr_fed.engines.deployment.journal import JOURNAL, Journal
from asr_fed.engines.deployment.node_experiment import LARGEST_CONFIG, own_clients, prepare, read_shared, reopen
from asr_fed.engines.deployment.policy import (
    PENDING,
    Policy,
    approve,
    check_approved,
    check_order,
    check_setup,
    check_terms,
    describe_setup,
    pending,
    permitted,
)
from asr_fed.engines.deployment.settings import Clients, NodeSettings
from asr_fed.federation.client_app import Shape, without_weights
from asr_fed.federation.client_store import ClientStore
from asr_fed.federation.shared_config import shared_config
from asr_fed.model.recogniser import Recogniser, load_recogniser, save_recogniser
from asr_fed.model.state import freeze, frozen_sha256, layout, pack_frozen, read_state
from asr_fed.runs.experiment import Experiment, open_experiment
from asr_fed.system.errors import UserError
from asr_fed.tasks.learners import create_learner
from asr_fed.tasks.recognition import Recognition
from asr_fed.wire.messages import Order, Refused, SharedConfig, Terms
from tests.federation.plain_node import PlainNode
from tests.tiny import talk, tiny_recogniser

Change = Callable[[dict[str, Any]], None]
LENIENT = Policy(utterances=1, seconds=0.0, steps=1, batch=1)  # tiny clients are few utterances


@pytest.fixture(scope="module")
def setup(experiment: Experiment) -> SharedConfig:
    return shared_config(experiment)


@pytest.fixture
def owner(experiment: Experiment) -> Client:
    """Whose speech the silo holds."""
    return experiment.partition.clients[0]


@pytest.fixture
def silo(owner: Client, tmp_path: Path) -> NodeSettings:
    return node(tmp_path, owner.utterances, name=owner.id)


def node(folder: Path, speech: tuple[Utterance, ...], **settings: Any) -> NodeSettings:
    """Settings of a node whose own speech this is, in reverse order as a manifest may have it."""
    write_manifest(folder / "manifest.csv", reversed(speech))
    given = {"superlink": "here:1", "folder": str(folder / "state"), "manifest": str(folder / "manifest.csv")}
    return NodeSettings(**(given | {"device": "cpu", "workers": 1, "policy": LENIENT} | settings))


def like_those_of_a_manifest(client: Client) -> Client:
    """A manifest keeps durations to four digits."""

    def rounded(part: tuple[Utterance, ...]) -> tuple[Utterance, ...]:
        return tuple(replace(utterance, duration=float(f"{utterance.duration:.4f}")) for utterance in part)

    return Client(client.id, rounded(client.train), rounded(client.dev))


def test_what_clients_keep_is_found_again_where_a_run_goes_on_with_another_setup(
    setup: SharedConfig, silo: NodeSettings
) -> None:
    longer = replace(setup, config=setup.config.replace("round_timeout: null", "round_timeout: 900.0"))
    assert longer != setup
    kept = [prepare(each, silo).run_dir / "clients" for each in (setup, longer)]
    assert kept[0] != kept[1] and kept[0].resolve() == kept[1].resolve() == Path(silo.folder).resolve() / "clients"
    ClientStore(kept[0] / "a run").write("anne", 3, {"c": 1})
    assert ClientStore(kept[1] / "a run").read("anne", 4) == {"c": 1}


def test_a_silo_has_the_same_client_as_the_server_would_have_made(
    experiment: Experiment, setup: SharedConfig, silo: NodeSettings, owner: Client
) -> None:
    prepared = prepare(setup, silo)
    assert prepared.clients == (like_those_of_a_manifest(owner),)
    assert prepared.setup == setup
    opened = open_experiment(prepared.run_dir)
    assert opened.partition.clients == prepared.clients and shared_config(opened) == setup
    theirs, ours = experiment.config, opened.config
    assert (ours.model, ours.federation, ours.seed) == (theirs.model, theirs.federation, theirs.seed)
    model = Recogniser.create(ours.model, ours.features, opened.tokenizer).model
    assert prepared.shape == Shape(layout(model).length)
    for utterance, same in zip(owner.train, prepared.clients[0].train, strict=True):
        np.testing.assert_array_equal(experiment.cache[utterance.id, 1.0], opened.cache[same.id, 1.0])


def test_a_setup_is_reopened_as_it_was_prepared(setup: SharedConfig, silo: NodeSettings) -> None:
    prepared = prepare(setup, silo)
    assert reopen(setup.sha256, silo) == prepared


@pytest.fixture
def base(experiment: Experiment, tmp_path: Path) -> Path:
    save_recogniser(experiment.fresh_recogniser(), tmp_path / "warm_start.pt")
    return tmp_path / "warm_start.pt"


@pytest.fixture
def frozen(setup: SharedConfig, base: Path) -> SharedConfig:
    """A setup whose encoder is frozen, as it is in `base`."""
    content = yaml.safe_load(setup.config)
    content["federation"]["frozen"] = ["encoder"]
    model = load_recogniser(base).model
    freeze(model, ["encoder"])
    return SharedConfig(yaml.safe_dump(content), setup.tokenizer, frozen_sha256(model))


def test_a_frozen_base_is_the_nodes_own_and_the_same(frozen: SharedConfig, silo: NodeSettings, base: Path) -> None:
    settings = replace(silo, base=str(base))
    prepared = prepare(frozen, settings)
    model = without_weights(open_experiment(prepared.run_dir)).model
    assert frozen_sha256(model) == frozen.base
    assert prepared.shape.state == layout(model).length < layout(load_recogniser(base).model).length
    assert reopen(frozen.sha256, settings) == prepared


def test_a_node_with_another_frozen_base_is_refused_in_words(
    setup: SharedConfig, frozen: SharedConfig, silo: NodeSettings, base: Path
) -> None:
    refuse(frozen, silo, r"no base for it \(base: in its settings\)")
    other = load_recogniser(base)
    with torch.no_grad():
        next(other.model.encoder.parameters()).add_(1e-3)
    save_recogniser(other, base.with_name("other.pt"))
    refuse(frozen, replace(silo, base=str(base.with_name("other.pt"))), f"base is {frozen.base[:8]}, and that of the")
    save_recogniser(tiny_recogniser(rnn_neurons=9), base.with_name("another.pt"))
    refuse(frozen, replace(silo, base=str(base.with_name("another.pt"))), "another base for: The frozen encoder")
    refuse(replace(setup, base=frozen.base), silo, f"base is {frozen.base[:8]}, and that of the node is none")
    unknown = frozen.config.replace("- encoder", "- nothing")
    refuse(replace(frozen, config=unknown), silo, "the model has no part 'nothing'")


def test_a_node_takes_the_codebook_of_a_pretraining_from_the_server(
    experiment: Experiment, setup: SharedConfig, silo: NodeSettings
) -> None:
    """A server with another processor has drawn it with other last bits."""
    content = yaml.safe_load(setup.config)
    content["task"] |= {"kind": "best_rq", "codebook_size": 12, "code_dim": 4}
    content["weighting"] = {"_target_": "asr_fed.aggregation.weighting.NumExamples"}
    config = replace(experiment.config, task=TaskConfig(TaskKind.best_rq, codebook_size=12, code_dim=4))
    server = create_learner(config, experiment.tokenizer).model
    with torch.no_grad():
        server.quantiser.codebook.mul_(1 + 1e-6)  # type: ignore[union-attr, operator]
    ours = SharedConfig(yaml.safe_dump(content), setup.tokenizer, frozen_sha256(server), pack_frozen(server))
    refuse(
        replace(ours, drawn=ours.drawn[4:] + ours.drawn[:4]), silo, f"base is {ours.base[:8]}, and that of the node is"
    )
    refuse(replace(ours, drawn=b"1234"), silo, "a setup with 4 bytes for the frozen part of the model")
    prepared = prepare(ours, silo)
    assert reopen(ours.sha256, silo) == prepared and prepared.shape.state == layout(server).length
    assert frozen_sha256(without_weights(open_experiment(prepared.run_dir)).model) == ours.base


def test_text_that_the_recogniser_cannot_write_is_remarked(
    setup: SharedConfig, silo: NodeSettings, owner: Client
) -> None:
    assert prepare(setup, silo).remark == ""
    write_manifest(Path(str(silo.manifest)), [replace(each, text=each.text.upper()) for each in owner.utterances])
    assert "It writes lower case" in prepare(setup, silo).remark


def test_a_silo_leaves_out_what_ctc_cannot_align_and_says_so(
    setup: SharedConfig, owner: Client, tmp_path: Path
) -> None:
    impossible = replace(owner.train[0], text=" ".join(["ba du ki mo ne ra su ti"] * 40))
    prepared = prepare(setup, node(tmp_path, (impossible, *owner.train[1:]), name=owner.id))
    assert [u.id for u in prepared.clients[0].train] == [u.id for u in owner.train[1:]]
    assert f"1 of {len(owner.train)} transcripts" in prepared.remark and impossible.id in prepared.remark
    opened = open_experiment(prepared.run_dir)
    assert opened.partition.clients == prepared.clients
    assert [u.id for u in opened.partition.dropped["too_many_tokens"]] == [impossible.id]


@pytest.mark.parametrize("sha256", ["", "0" * 64, "../" * 21 + "x", "not a hash"])
def test_an_experiment_that_was_not_joined_is_not_opened(silo: NodeSettings, sha256: str) -> None:
    with pytest.raises(Refused, match="has not joined"):
        reopen(sha256, silo)


def test_a_setup_that_was_changed_on_disk_is_not_opened(setup: SharedConfig, silo: NodeSettings) -> None:
    run_dir = prepare(setup, silo).run_dir
    (run_dir / "setup.yaml").write_text(setup.config.replace("seed: 7", "seed: 8"))
    with pytest.raises(Refused, match="no longer has"):
        reopen(setup.sha256, silo)


def test_speakers_become_clients_by_the_same_rule(experiment: Experiment, tmp_path: Path) -> None:
    clients, config = experiment.partition.clients, experiment.config
    speech = tuple(utterance for client in clients for utterance in client.utterances)
    settings = node(tmp_path, speech, name="town", clients=Clients.speaker)
    found = own_clients(settings, config)
    assert [client.id for client in found] == [f"town-{number:04}" for number in range(1, 6)]
    for client, theirs in zip(found, sorted(clients, key=lambda client: client.speakers), strict=True):
        assert client.speakers == theirs.speakers
        speech = like_those_of_a_manifest(theirs).utterances
        ordered = tuple(sorted(speech, key=lambda utterance: utterance.id))
        assert client == make_client(client.id, ordered, config.federation.clients, config.seed)


def test_speech_for_dev_and_test_is_left_out(experiment: Experiment, owner: Client, tmp_path: Path) -> None:
    first, second, *others = owner.utterances
    kept = (replace(first, split="test"), replace(second, split=" Dev"), *others)
    [client] = own_clients(node(tmp_path, kept, name="town"), experiment.config)
    assert {u.id for u in client.utterances} == {u.id for u in others}
    with pytest.raises(UserError, match="no speech to train on"):
        own_clients(node(tmp_path, kept[:2], name="town"), experiment.config)


def test_a_virtual_node_has_the_clients_of_its_partition(
    experiment: Experiment, setup: SharedConfig, tmp_path: Path
) -> None:
    given = str(experiment.run_dir / "partition")
    settings = NodeSettings("virtual", "here:1", str(tmp_path), partition=given, device="cpu", workers=1)
    prepared = prepare(setup, settings)
    assert prepared.clients == experiment.partition.clients
    # The server's own parts, should they be in that file, are not for its workers.
    assert read_partition(prepared.run_dir / "partition").dev == ()


def put(section: str, **values: Any) -> Change:
    return lambda config: config[section].update(values)


def optimizer(target: Any, **arguments: Any) -> Change:
    return put("federation", optimizer={"_target_": target, **arguments})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda config: config.update(engine={"workers": 64}), "other sections"),
        (lambda config: config.update(data={"prepare": {"_target_": "os.system"}}), "other sections"),
        (lambda config: config.update(run_dir="/"), "other sections"),
        (lambda config: config.pop("seed"), "other sections"),
        (put("model", rnn_neurons="${oc.env:HOME}"), "an interpolation"),
        (put("model", rnn_neurons="${model.dnn_neurons}"), "an interpolation"),
        (lambda config: config.update(precision="${oc.env:HOME}"), "an interpolation"),
        (optimizer("os.system", command="touch /tmp/owned"), "not in this node's trust"),
        (optimizer("builtins.eval"), "not in this node's trust"),
        (optimizer("torch.hub.load"), "not in this node's trust"),
        (optimizer("torch.optim.adam.torch.hub.load"), "not in this node's trust"),
        (optimizer("torch.optim.__builtins__.eval"), "not in this node's trust"),
        (optimizer("torch.optim."), "not in this node's trust"),
        (optimizer(["torch.optim.SGD"]), "not in this node's trust"),
        (optimizer("torch.optim.adam"), "not a class"),
        (optimizer("asr_fed.aggregation.weighting.weight_bounds"), "not a class"),
        (optimizer("torch.optim.NoSuchThing"), "is not installed here"),
        (optimizer("torch.optim.SGD", _args_=["x"]), "the key '_args_'"),
        (optimizer("torch.optim.SGD", _convert_="all"), "the key '_convert_'"),
        (optimizer("torch.optim.SGD", momentom=0.9), "does not take"),
        (optimizer("torch.optim.SGD", momentum={"_target_": "os.system"}), "not in this node's trust"),
        (
            lambda config: config.update(weighting={"_target_": "asr_fed.data_prep.table.prepare"}),
            "not in this node's trust",
        ),
        (put("loss", ctc_weight=2.0), "does not take"),
        (put("loss", ctc_wait=1.0), "does not take"),
        (put("federation", local_epochs="many"), "does not take"),
        (put("augment", speeds=[1.0 + step / 100 for step in range(9)]), "9 playback speeds"),
        (put("model", rnn_neurons=8193), "too large"),
        (put("model", rnn_neurons=8192, rnn_layers=100), "too large"),
        (put("model", dnn_blocks=10**9), "too large"),
        (put("model", cnn_channels=[10**6, 10**6]), "too large"),
        (put("model", cnn_channels=[4] * 9), "does not take"),
        (put("model", cnn_kernel=[10**5, 10**5]), "too large"),
        (put("model", rnn_neurons=-8), "does not take"),
        (put("model", decoder_neurons=-8), "does not take"),
    ],
)
def test_a_config_that_is_not_trusted_is_refused_and_nothing_is_written(
    setup: SharedConfig, silo: NodeSettings, change: Change, told: str
) -> None:
    content = yaml.safe_load(setup.config)
    change(content)
    refuse(SharedConfig(yaml.safe_dump(content), setup.tokenizer), silo, told)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("seed: !!python/object/apply:os.system ['true']\n", "anchors or tags"),
        ("seed: !!int 3\n", "anchors or tags"),
        ("a: &a [x]\nb: [*a, *a]\n", "anchors or tags"),
        ("seed: [", "not YAML"),
        ("seed: 1\n\x00", "not YAML"),
        ("- 1\n- 2\n", "other sections"),
        ("7", "other sections"),
        ("", "other sections"),
        ("x" * (LARGEST_CONFIG + 1), "characters"),
    ],
)
def test_text_that_is_no_plain_config_is_refused(setup: SharedConfig, silo: NodeSettings, text: str, told: str) -> None:
    refuse(SharedConfig(text, setup.tokenizer), silo, told)


def test_one_tag_in_a_good_config_is_refused(setup: SharedConfig, silo: NodeSettings) -> None:
    refuse(SharedConfig(setup.config.replace("seed: 7", "seed: !!int 7"), setup.tokenizer), silo, "anchors or tags")


@pytest.mark.parametrize("tokenizer", [b"", b"\x00" * 99, b"no model"])
def test_a_broken_tokenizer_is_refused(setup: SharedConfig, silo: NodeSettings, tokenizer: bytes) -> None:
    refuse(SharedConfig(setup.config, tokenizer), silo, "tokenizer")


def test_an_owner_may_trust_more_or_less(setup: SharedConfig, silo: NodeSettings) -> None:
    refuse(setup, replace(silo, trust=[each for each in silo.trust if "weighting" not in each]), "WerSoftmax")
    content = yaml.safe_load(setup.config)
    content["weighting"] = {"_target_": "tests.faults.Mishaps", "folder": "", "raises_at": 0, "nan_at": 0, "dies_at": 0}
    own = SharedConfig(yaml.safe_dump(content), setup.tokenizer)
    refuse(own, silo, "tests.faults.Mishaps")
    prepare(own, replace(silo, trust=[*silo.trust, "tests.faults."]))


def refuse(setup: SharedConfig, settings: NodeSettings, told: str) -> None:
    with pytest.raises(Refused, match=told):
        prepare(setup, settings)
    assert not Path(settings.folder).exists()


def changed(setup: SharedConfig, *changes: Change) -> SharedConfig:
    content = yaml.safe_load(setup.config)
    for change in changes:
        change(content)
    return SharedConfig(yaml.safe_dump(content), setup.tokenizer, setup.base)


def long(owner: Client) -> tuple[Utterance, ...]:
    """Speech enough for the default policy, as far as a manifest says."""
    return tuple(replace(owner.train[0], id=f"u{number}", duration=4.0) for number in range(60))


SPYING = (  # which gave the exact words of 6 of 6 utterances, with a tokenizer of whole words
    lambda config: config["federation"]["clients"].update(dev_fraction=0.999),
    put("federation", local_steps=1),
    lambda config: config["federation"]["batch"].update(max_utterances=1),
)


@pytest.mark.parametrize("attack", [SPYING, SPYING[:1], SPYING[1:2], SPYING[2:]], ids=["all", "dev", "steps", "batch"])
def test_single_utterances_are_not_read_off_an_update(
    setup: SharedConfig, owner: Client, tmp_path: Path, attack: tuple[Change, ...]
) -> None:
    """By default. Lenient settings take the same setup, so that it is the policy which refuses."""
    silo = node(tmp_path, long(owner), name="clinic", policy=Policy())
    refuse(changed(setup, *attack), silo, "policy of this node's owner")
    config = read_shared(changed(setup, *attack).config, silo, tmp_path)
    check_setup(LENIENT, config, own=True)
    assert permitted(LENIENT, config, own_clients(silo, config))


def test_a_setup_as_ours_is_taken_by_default(setup: SharedConfig, owner: Client, tmp_path: Path) -> None:
    silo = node(tmp_path, long(owner), name="clinic", policy=Policy())
    config = read_shared(changed(setup, put("federation", local_epochs=2)).config, silo, tmp_path)
    check_setup(silo.policy, config, own=True)
    [client] = permitted(silo.policy, config, own_clients(silo, config))
    assert len(client.train) > 40


def test_terms_of_an_order_do_not_bypass_the_policy(setup: SharedConfig, owner: Client, tmp_path: Path) -> None:
    """An order for one step gave an update of one batch, whatever the setup said."""
    silo = node(tmp_path, long(owner), name="clinic", policy=Policy())
    config = read_shared(changed(setup, put("federation", local_epochs=2)).config, silo, tmp_path)
    hosted = permitted(silo.policy, config, own_clients(silo, config))
    for steps in (None, 100, 5):
        check_terms(silo.policy, config, {"clinic": Terms(steps, 0.5), "elsewhere": Terms(1)}, hosted)
    for policy, steps in ((Policy(), 4), (Policy(), 0), (Policy(utterances=21), 5), (Policy(seconds=81.0), 5)):
        with pytest.raises(Refused, match="policy of this node's owner"):
            check_terms(policy, config, {"clinic": Terms(steps)}, hosted)


def mime_lite(batches: int | None) -> Change:
    def change(config: dict[str, Any]) -> None:
        config["algorithm"] = {"_target_": "asr_fed.algorithms.mime_lite.MimeLite", "gradient_batches": batches}
        config["federation"].update(local_epochs=2, optimizer={"_target_": "torch.optim.SGD"})

    return change


def test_a_gradient_of_few_batches_does_not_bypass_the_policy(
    setup: SharedConfig, owner: Client, tmp_path: Path
) -> None:
    """MimeLite with gradient_batches=1 sent the gradient of one batch beside the update."""
    silo = node(tmp_path, long(owner), name="clinic", policy=Policy())

    def taken(batches: int | None, policy: Policy) -> tuple[Client, ...]:
        config = read_shared(changed(setup, mime_lite(batches)).config, silo, tmp_path)
        check_setup(policy, config, own=True)
        return permitted(policy, config, own_clients(silo, config))

    assert len(taken(None, Policy())) == len(taken(5, Policy())) == 1
    for batches, policy in ((1, Policy()), (4, Policy()), (5, Policy(utterances=21)), (5, Policy(seconds=81.0))):
        with pytest.raises(Refused, match="policy of this node's owner"):
            taken(batches, policy)


def test_an_owner_reads_which_vectors_leave_besides(setup: SharedConfig, silo: NodeSettings, tmp_path: Path) -> None:
    config = read_shared(changed(setup, mime_lite(None)).config, silo, tmp_path)
    assert "each client's own vectors: gradient." in describe_setup(config)
    config.algorithm["gradient_batches"] = 0
    assert "cannot say what it sums besides" in describe_setup(config)
    assert "esides" not in describe_setup(read_shared(setup.config, silo, tmp_path))


def test_no_client_of_a_sum_is_singled_out_by_its_weight(
    setup: SharedConfig, experiment: Experiment, tmp_path: Path
) -> None:
    speech = tuple(each for client in experiment.partition.clients for each in client.utterances)
    silo = node(tmp_path, speech, clients=Clients.speaker, name="clinic", policy=replace(LENIENT, clients=2))
    config = read_shared(setup.config, silo, tmp_path)
    hosted = own_clients(silo, config)
    check_terms(silo.policy, config, {client.id: Terms(None, 0.5) for client in hosted}, hosted)
    with pytest.raises(Refused, match=r"policy\.clients"):
        check_terms(silo.policy, config, {hosted[0].id: Terms(None, 1e-4)}, hosted)


def test_speakers_with_too_little_speech_take_no_part(setup: SharedConfig, owner: Client, tmp_path: Path) -> None:
    speech = [*long(owner), *(replace(each, speaker="few", id=f"f{each.id}") for each in owner.train[:2])]
    silo = node(tmp_path, tuple(speech), name="clinic", policy=Policy(), clients=Clients.speaker)
    config = read_shared(changed(setup, put("federation", local_epochs=2)).config, silo, tmp_path)
    hosted = own_clients(silo, config)
    assert len(hosted) == 2 and len(permitted(silo.policy, config, hosted)) == 1


def test_speech_that_cannot_be_trained_on_does_not_count(
    setup: SharedConfig, experiment: Experiment, tmp_path: Path
) -> None:
    """A speaker of whom too little is left takes no part; where nobody is left, the setup is refused."""
    few, more = sorted(experiment.partition.clients, key=lambda client: len(client.train))[:2]
    assert len(few.train) < len(more.train)
    impossible = replace(few.train[0], text=" ".join(["ba du ki mo ne ra su ti"] * 40))
    speech = tuple(impossible if each.id == impossible.id else each for each in few.utterances)
    policy = replace(LENIENT, utterances=len(few.train))
    (tmp_path / "alone").mkdir()
    assert prepare(setup, node(tmp_path / "alone", few.utterances, name=few.id, policy=policy)).clients
    with pytest.raises(Refused, match="policy of this node's owner"):
        prepare(setup, node(tmp_path, speech, name=few.id, policy=policy))
    speakers = node(tmp_path, speech + more.utterances, name="clinic", policy=policy, clients=Clients.speaker)
    prepared = prepare(setup, speakers)
    [client] = prepared.clients
    assert {each.speaker for each in client.train} == {more.train[0].speaker}
    assert "1 client(s) have less speech than the policy wants" in prepared.remark
    assert open_experiment(prepared.run_dir).partition.clients == prepared.clients
    assert impossible.id in prepared.remark


@pytest.mark.parametrize(
    "change",
    [
        put("features", sample_rate=1_000_000),
        put("features", n_mels=4096),
        put("federation", local_epochs=10**6),
        put("federation", local_steps=10**9),
        put("evaluation", beam_size=10**5),
        lambda config: config["federation"]["batch"].update(max_utterances=10**6),
    ],
)
def test_more_work_than_any_recipe_asks_for_is_refused(setup: SharedConfig, silo: NodeSettings, change: Change) -> None:
    refuse(changed(setup, change), silo, "this node takes at most|does not take")


def test_simulated_clients_have_no_secrets(setup: SharedConfig, experiment: Experiment, tmp_path: Path) -> None:
    given = str(experiment.run_dir / "partition")
    virtual = NodeSettings("virtual", "here:1", str(tmp_path), partition=given, device="cpu", workers=1)
    config = read_shared(changed(setup, *SPYING).config, virtual, tmp_path)
    check_setup(virtual.policy, config, virtual.own)


def test_a_setup_waits_for_its_owner_to_approve(setup: SharedConfig, silo: NodeSettings) -> None:
    folder = Path(silo.folder)
    strict = replace(silo, policy=replace(LENIENT, approval=True))
    with pytest.raises(Refused, match="has yet to approve"):
        prepare(setup, strict)
    assert pending(folder) == [setup.sha256]
    config = read_shared((folder / PENDING / f"{setup.sha256}.yaml").read_text(), strict, folder)
    assert "Leaves this node in each round" in describe_setup(config)
    approve(folder, setup.sha256)
    assert pending(folder) == []
    [entry] = Journal(folder / JOURNAL).entries()
    assert (entry["event"], entry["setup"]) == ("approved", setup.sha256)
    check_approved(strict.policy, setup, folder)
    with pytest.raises(Refused, match="has yet to approve"):
        check_approved(strict.policy, changed(setup, put("loss", label_smoothing=0.2)), folder)


def test_a_folder_that_is_full_by_its_owners_quota(setup: SharedConfig, silo: NodeSettings) -> None:
    Path(silo.folder).mkdir()
    (Path(silo.folder) / "old").write_bytes(bytes(2000))
    with pytest.raises(UserError, match="policy.gigabytes is 1e-06: remove features"):
        prepare(setup, replace(silo, policy=replace(LENIENT, gigabytes=1e-6)))


@pytest.mark.parametrize(
    ("clients", "rounds", "worked", "rule"),
    [(1, 0, 0.0, "clients"), (2, 5, 0.0, "rounds"), (2, 0, 3600.0, "hours_per_day")],
)
def test_orders_have_limits_too(clients: int, rounds: int, worked: float, rule: str) -> None:
    policy = Policy(clients=2, rounds=5, hours_per_day=1.0)
    check_order(policy, 2, 4, 3599.0, own=True)
    with pytest.raises(Refused, match=rf"policy\.{rule}"):
        check_order(policy, clients, rounds, worked, own=True)


def own_hypotheses(config: dict[str, Any]) -> None:
    config["federation"]["pseudo_labels"].update(every=1, min_confidence=0.0, max_rate=1000.0, min_rate=0.0)
    config["weighting"] = {"_target_": "asr_fed.aggregation.weighting.NumExamples"}


def test_a_silo_without_transcripts_trains_where_the_setup_makes_hypotheses_and_no_word_of_them_leaves_it(
    setup: SharedConfig, owner: Client, tmp_path: Path
) -> None:
    silo = node(tmp_path, tuple(replace(each, text="") for each in owner.utterances), name=owner.id)
    with pytest.raises(UserError, match=r"the transcript \(wrd\) is empty"):
        prepare(setup, silo)
    prepared = prepare(changed(setup, own_hypotheses), silo)
    [client] = prepared.clients
    assert [each.id for each in client.train] == [each.id for each in owner.train]
    assert not any(each.text for each in client.train)
    opened = open_experiment(prepared.run_dir)
    training = opened.task(without_weights(opened), torch.device("cpu"))
    assert isinstance(training, Recognition)
    talk(training.model)
    store = ClientStore(opened.run_dir / "clients")
    plain = PlainNode(opened, training, NumExamples(), {owner.id: client}, FedAvg(), store)
    update, failures = plain.update(Order(1, 0.1, (owner.id,), read_state(training.model)))
    assert failures == {} and update.totals["untranscribed"] == len(owner.train)
    assert update.totals["pseudo_labelled"] > 0 and update.sums[DELTA].values.any()


def test_the_policy_counts_only_what_is_sure_to_be_behind_an_update(
    setup: SharedConfig, owner: Client, tmp_path: Path
) -> None:
    speech = tuple(replace(each, text="") for each in long(owner))
    silo = node(tmp_path, speech, name="clinic", policy=Policy())
    steps = put("federation", local_epochs=4)
    config = read_shared(changed(setup, own_hypotheses, steps).config, silo, tmp_path)
    with pytest.raises(Refused, match="policy of this node's owner"):
        permitted(silo.policy, config, own_clients(silo, config))
    config.federation.pseudo_labels.min_utterances = 30
    assert permitted(silo.policy, config, own_clients(silo, config))
