"""Make a folder that workers can open, from what the server sends a joining node and from the node's own speech.

A config from the network is read as data: only the sections that local training needs, no references to the node's
environment, and only objects of classes that the node's owner trusts.
"""

import math
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from hydra.utils import instantiate
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from asr_fed.config.check import check_shared
from asr_fed.config.explain import explain
from asr_fed.config.schema import Config
from asr_fed.config.trust import check_trust
from asr_fed.data.alignable import describe_impossible
from asr_fed.data.deal import make_client
from asr_fed.data.manifest import read_manifest
from asr_fed.data.partition import Client, Partition
from asr_fed.data.partition_files import read_partition, write_partition
from asr_fed.data.tokenizer import Tokenizer, describe_unknown, save_tokenizer
from asr_fed.engines.deployment.policy import check_approved, check_disk, check_setup, permitted
from asr_fed.engines.deployment.settings import Clients, NodeSettings
from asr_fed.federation.client_app import Shape, shape_of
from asr_fed.federation.shared_config import SHARED
from asr_fed.model.encoder import stride
from asr_fed.model.state import frozen_sha256, load_frozen, unpack_frozen
from asr_fed.model.tuning import is_partial, train_only
from asr_fed.runs.experiment import prepare_features, trains_without_transcripts
from asr_fed.system.errors import UserError
from asr_fed.system.files import replacing, write_text
from asr_fed.system.processes import available_cores
from asr_fed.tasks.learners import Learner, create_learner, load_learner, save_learner
from asr_fed.wire.messages import Refused, SharedConfig

LARGEST_CONFIG = 1 << 16  # characters
MOST_SPEEDS = 8
DRAWN = "drawn.bin"
LARGEST_MODEL = 2_000_000_000  # numbers in its state
WIDEST, MOST_BLOCKS = 8192, 8  # neurons of any layer; blocks of convolutions


@dataclass(frozen=True)
class NodeExperiment:
    """An experiment in which this node takes part.

    `shape` has the lengths of vectors in orders and answers. `remark` tells the node's owner about problems of its
    texts; it may be empty.
    """

    setup: SharedConfig
    run_dir: Path
    config: Config
    clients: tuple[Client, ...]
    shape: Shape
    remark: str


def prepare(setup: SharedConfig, settings: NodeSettings) -> NodeExperiment:
    """Write the node's folder of an experiment, features included.

    Raises Refused for a setup that this node does not accept, UserError if its own speech has a fault.
    """
    run_dir = Path(settings.folder) / "experiments" / setup.sha256
    config = read_shared(setup.config, settings, run_dir)
    check_setup(settings.policy, config, settings.own)
    check_disk(settings.policy, Path(settings.folder))
    check_approved(settings.policy, setup, Path(settings.folder))
    tokenizer = _tokenizer(setup.tokenizer)
    learner = _learner(config, tokenizer, setup, settings)
    try:
        shape = shape_of(instantiate(config.algorithm), learner.model)
    except Exception as error:
        raise Refused(f"an algorithm that cannot be built: {type(error).__name__}") from error
    hosted = own_clients(settings, config)
    clients = permitted(settings.policy, config, hosted) if settings.own else hosted
    partition = Partition((), (), (), (), clients)
    remarks = [describe_unknown(tokenizer, (utterance.text for utterance in partition.utterances))]
    run_dir.mkdir(parents=True, exist_ok=True)
    _keep_by_run(run_dir / "clients", Path(settings.folder) / "clients")
    save_tokenizer(tokenizer, run_dir / "tokenizer.model")
    if setup.base:  # for the workers
        save_learner(learner, config, run_dir / "checkpoints" / "warm_start.pt")
    processes = settings.workers or available_cores()
    _, partition = prepare_features(config, run_dir, partition, tokenizer, processes, most=1.0)
    remarks.append(describe_impossible(partition))
    if settings.own:  # again, since what CTC cannot align is not trained on
        partition = replace(partition, clients=permitted(settings.policy, config, partition.clients))
    if settings.own and (left_out := len(hosted) - len(partition.clients)):
        remarks.append(f"{left_out} client(s) have less speech than the policy wants, and take no part.")
    write_partition(partition, run_dir / "partition")
    experiment = NodeExperiment(setup, run_dir, config, partition.clients, shape, " ".join(filter(None, remarks)))
    # The setup is written last: it marks the folder as complete.
    write_text(run_dir / "config.yaml", OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True))
    write_text(run_dir / "base.sha256", setup.base)
    with replacing(run_dir / DRAWN) as path:
        path.write_bytes(setup.drawn)
    write_text(run_dir / "setup.yaml", setup.config)
    return experiment


def _keep_by_run(link: Path, kept: Path) -> None:
    """What clients keep between rounds belongs to a run, which has another setup where it is resumed with more rounds.

    A folder of an earlier version stays.
    """
    kept.mkdir(exist_ok=True)
    if not link.exists():
        link.symlink_to(os.path.relpath(kept, link.parent))


def reopen(sha256: str, settings: NodeSettings) -> NodeExperiment:
    """An experiment that this node has prepared before. Raises Refused if it has not."""
    run_dir = Path(settings.folder) / "experiments" / sha256
    if not re.fullmatch(r"[0-9a-f]{64}", sha256) or not (run_dir / "setup.yaml").is_file():
        raise Refused("an order for an experiment that this node has not joined")
    setup = SharedConfig(
        (run_dir / "setup.yaml").read_text(encoding="utf-8"),
        (run_dir / "tokenizer.model").read_bytes(),
        (run_dir / "base.sha256").read_text(encoding="utf-8"),
        drawn.read_bytes() if (drawn := run_dir / DRAWN).is_file() else b"",  # of an earlier version: its base tells
    )
    if setup.sha256 != sha256:
        raise Refused("an order for an experiment that this node no longer has")
    return prepare(setup, settings)


def read_shared(text: str, settings: NodeSettings, run_dir: Path) -> Config:
    """The config of the node: the sections that the server sent, and the node's own paths. Raises Refused."""
    if len(text) > LARGEST_CONFIG:
        raise Refused(f"a config of {len(text)} characters")
    try:
        if any(isinstance(token, yaml.AnchorToken | yaml.AliasToken | yaml.TagToken) for token in yaml.scan(text)):
            raise Refused("a config with anchors or tags")
        shared = yaml.safe_load(text)
    except Refused:
        raise
    except Exception as error:  # a month 13, a number of 5,000 digits, nesting beyond Python's: each another kind
        raise Refused("a config that is not YAML") from error
    if not isinstance(shared, dict) or set(shared) != set(SHARED):
        raise Refused("a config of other sections than those that are shared: another version of asr_fed?")
    try:
        check_trust(shared, settings.trust, "this node's trust")
    except UserError as error:
        raise Refused(str(error)) from error
    own = {
        "run_dir": str(run_dir),
        "device": settings.device,
        "data": {"name": settings.name, "language": "", "root": "", "prepared": settings.folder},
        "engine": {"workers": settings.workers, "threads_per_worker": settings.threads},
    }
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Config), shared, own)
        check_shared(merged)  # type: ignore[arg-type]
        config: Config = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise Refused(f"a config that this version of asr_fed does not take: {explain(error)}") from error
    except UserError as error:
        raise Refused(f"a config that this node does not take: {error}") from error
    except Exception as error:
        raise Refused(f"a config that this node cannot make sense of ({type(error).__name__})") from error
    if len(config.augment.speeds) > MOST_SPEEDS:
        raise Refused(f"a config with {len(config.augment.speeds)} playback speeds")
    return config


def own_clients(settings: NodeSettings, config: Config) -> tuple[Client, ...]:
    """The clients that this node hosts, made by the same rule as in a simulation.

    Speech that the corpus itself keeps for dev or test is left out. Raises UserError where nothing is left.
    """
    if settings.partition is not None:
        return read_partition(settings.partition).clients
    assert settings.manifest is not None
    utterances = read_manifest(settings.manifest, untranscribed=trains_without_transcripts(config))
    speech = [utterance for utterance in utterances if utterance.split.strip().lower() not in ("dev", "test")]
    if not speech:
        raise UserError(f"{settings.manifest} holds no speech to train on.")
    speech.sort(key=lambda utterance: (utterance.speaker, utterance.id))
    rule, seed = config.federation.clients, config.seed
    if settings.clients is Clients.silo:
        return (make_client(settings.name, tuple(speech), rule, seed),)
    speakers = sorted({utterance.speaker for utterance in speech})
    width = max(4, len(str(len(speakers))))
    return tuple(
        make_client(f"{settings.name}-{number:0{width}}", tuple(u for u in speech if u.speaker == speaker), rule, seed)
        for number, speaker in enumerate(speakers, 1)
    )


def _tokenizer(proto: bytes) -> Tokenizer:
    try:
        return Tokenizer(proto)
    except Exception as error:
        raise Refused("a tokenizer that SentencePiece cannot read") from error


def _learner(config: Config, tokenizer: Tokenizer, setup: SharedConfig, settings: NodeSettings) -> Learner:
    """The model of the experiment, what is frozen from the node's own files. Raises Refused where that is not the
    server's, UserError where there is no such file."""
    _check_size(config, tokenizer)
    try:
        learner = create_learner(config, tokenizer)
    except UserError as error:
        raise Refused(f"a model that this node cannot build: {error}") from error
    except Exception as error:
        raise Refused(f"a model that cannot be built: {type(error).__name__}") from error
    try:
        train_only(learner.model, config.federation)
    except UserError as error:
        raise Refused(f"a config that this node does not take: {error}") from error
    if config.task.kind.pretrains:
        try:
            unpack_frozen(learner.model, setup.drawn)
        except UserError as error:
            raise Refused(f"a setup with {error}") from error
    elif is_partial(config.federation):
        if settings.base is None:
            raise Refused("a model that is frozen in part, and the node has no base for it (base: in its settings)")
        base = load_learner(Path(settings.base), config)
        try:
            train_only(base.model, config.federation)
            load_frozen(learner.model, base.model.state_dict())
        except UserError as error:
            raise Refused(f"a model that the node has another base for: {error}") from error
    if (own := frozen_sha256(learner.model)) != setup.base:
        told = [sha256[:8] or "none" for sha256 in (setup.base, own)]
        raise Refused(f"a model whose frozen base is {told[0]}, and that of the node is {told[1]}")
    return learner


def _check_size(config: Config, tokenizer: Tokenizer) -> None:
    """Check sizes before anything is allocated. Raises Refused."""
    model = config.model
    widths = (model.rnn_neurons, model.dnn_neurons, model.decoder_neurons, model.attention_dim, model.embedding)
    sizes = (*model.cnn_channels, *model.cnn_kernel, *widths, model.attention_channels, model.attention_kernel)
    sizes = (*sizes, config.features.n_mels, config.features.n_fft)
    sizes = (*sizes, model.conformer_neurons, model.conformer_ffn, model.conformer_kernel, model.time_pooling)
    sizes = (*sizes, model.adapters)
    # An LSTM of n neurons and two directions has up to 24 n^2 weights a layer.
    numbers = 24 * model.rnn_layers * model.rnn_neurons**2 + (model.dnn_blocks + 12) * max(widths) ** 2
    numbers += 8 * model.rnn_neurons * model.cnn_channels[-1] * config.features.n_mels
    numbers += 2 * sum(math.prod(model.cnn_kernel) * channels**2 for channels in model.cnn_channels)
    wide, deep = model.conformer_neurons, model.conformer_ffn
    numbers += model.conformer_layers * wide * (10 * wide + 4 * deep + model.conformer_kernel)
    numbers += wide * model.cnn_channels[-1] * config.features.n_mels * model.time_pooling
    numbers += 3 * len(tokenizer) * max(widths)
    task, of_state = config.task, config.features.n_mels * stride(model)
    numbers += task.codebook_size * (model.states + task.code_dim) + task.code_dim * (model.states + of_state)
    if model.pretrained is not None:  # its widths have limits beside them
        numbers += model.pretrained.parameters + 3 * max(widths) * model.states
    if max(sizes) > WIDEST or len(model.cnn_channels) > MOST_BLOCKS or numbers > LARGEST_MODEL:
        raise Refused("a model that is too large for this node")
