"""A config that makes no sense is refused before any work, naming the key and the nearest valid one."""

import re
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from asr_fed.commands import train
from asr_fed.config.check_learning import check_decoder
from asr_fed.config.files import experiments_folder
from asr_fed.config.schema import Decoder
from asr_fed.system.errors import UserError

EXPERIMENT = """
defaults:
  - schema
  - model: small
  - federation: cross_device
  - weighting: wer_softmax
  - server: fed_adam
  - engine: local
  - _self_
run_dir: {folder}/run
data: {{name: mine, language: en, root: {folder}/nothing, parts: {{warm_up_speakers: 1}}}}
"""


VSSL = "task.kind=best_rq weighting=num_examples algorithm._target_=asr_fed.algorithms.fed_vssl.FedVssl"
KRUM = "engine=deployment engine.address=localhost:8000 engine.nodes=9 federation.robust={rule:multi_krum,liars:2}"


class Outcome:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """The command line with an experiment of one's own, in this process; `yaml` is appended to the file."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str, yaml: str = "", encoding: str = "utf-8") -> Outcome:
        file = tmp_path / "mine.yaml"
        file.write_text(EXPERIMENT.format(folder=tmp_path) + yaml, encoding=encoding)
        GlobalHydra.instance().clear()
        monkeypatch.setattr("sys.argv", ["train_fed.py", str(file), *arguments])
        code = 0
        try:
            code = train.main()
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        captured = capsys.readouterr()
        assert not (tmp_path / "run").exists(), "work was done"
        return Outcome(code, captured.out, captured.err)

    return command


@pytest.mark.parametrize(
    ("argument", "named", "nearest"),
    [
        ("federaton.rounds=2", "federaton", "federation"),
        ("federation.round=2", "federation.round", "federation.rounds"),
        ("federation.batch.max_utterence=2", "federation.batch.max_utterence", "federation.batch.max_utterances"),
        ("engine.worker=2", "engine.worker", "engine.workers"),
        ("weighting.temprature=2", "weighting.temprature", "weighting.temperature"),
        ("+weighting.temprature=2", "weighting.temprature", "temperature"),
        ("server.etta=2", "server.etta", "server.eta"),
        ("ressume=true", "ressume", "resume"),
        ("+ressume=true", "ressume", "resume"),
        ("+federation.round=2", "federation.round", "federation.rounds"),
        ("data.rot=x", "data.rot", "data.root"),
    ],
)
def test_a_misspelt_key_on_the_command_line(run, argument: str, named: str, nearest: str) -> None:
    outcome = run(argument)
    assert outcome.code == 2
    assert f"'{named}'" in outcome.err
    assert f"Did you mean '{nearest}'?" in outcome.err
    assert "Traceback" not in outcome.err and "full_key" not in outcome.err


@pytest.mark.parametrize(
    ("yaml", "named", "nearest"),
    [
        ("federation: {round: 2}", "federation.round", "federation.rounds"),
        ("sed: 2", "sed", "seed"),
        ("weighting: {temprature: 2.0}", "weighting.temprature", "temperature"),
        ("warm_start: {annealing: {factr: 0.5}}", "warm_start.annealing.factr", "warm_start.annealing.factor"),
        ("central: {optimizer: {_target_: torch.optim.SGD, momentun: 0.9}}", "central.optimizer.momentun", "momentum"),
    ],
)
def test_a_misspelt_key_in_the_file(run, yaml: str, named: str, nearest: str) -> None:
    outcome = run(yaml=yaml)
    assert outcome.code == 2
    assert f"'{named}'" in outcome.err
    assert f"Did you mean '{nearest}'?" in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    "argument",
    [
        "federation.rounds=two",
        "federation.lr=fast",
        "resume=perhaps",
        "model.cnn_channels=[a,b]",
        "mode=decentral",
        "evaluation.test_decoder=beams",
        "weighting.temperature=hot",
        "weighting.temperature=true",
        "federation.cohort=some",
        "warm_start.optimizer.weight_decay=heavy",
        "tokenizer.vocab_size=10.5",
        "tokenizer.vocab_size=null",  # of unigram: only characters can be counted
    ],
)
def test_a_wrong_type_names_the_key(run, argument: str) -> None:
    arguments = [argument if "optimizer" not in argument else f"+{argument}"]
    outcome = run(*arguments)
    assert outcome.code == 2
    assert argument.split("=")[0] in outcome.err
    assert "Traceback" not in outcome.err and "full_key" not in outcome.err


@pytest.mark.parametrize("yaml", ["federation: {rounds: two}", "seed: [1]", "weighting: {temperature: hot}"])
def test_a_wrong_type_in_the_file_names_the_key(run, yaml: str) -> None:
    outcome = run(yaml=yaml)
    assert outcome.code == 2
    assert re.sub(r"[{} ]", "", yaml).replace(":", ".").rsplit(".", 1)[0] in outcome.err


@pytest.mark.parametrize(
    "argument",
    [
        "loss.ctc_weight=1.5",
        "federation.lr=0",
        "federation.cohort=0",
        "engine.workers=0",
        "warm_start.annealing.factor=2.0",
        "augment.speeds=[]",
        "federation.batch.max_seconds=-1",
        "data.parts.warm_up_speakers=0",
        "weighting.temperature=0",
        "weighting.temperature=-1.0",
        "evaluation.beam_eos_threshold=0.9",
        "evaluation.beam_temperature=0",
        "evaluation.beam_max_attention_shift=0",
        "augment.least_time_drops=3",
        "augment.least_frequency_drop_bands=16",
        "federation.round_timeout=0",
        "data.root=???",
        "weighting._target_=asr_fed.aggregation.weighting.Nothing",
        "data.parts.dev_share=0",
        "data.parts.dev_share=1",
        "data.parts.warm_up_hours=-3",
        "federation.clients.count=0",
        "federation.clients.alpha=-1",
        "federation.cohort=1.5",
        "model.embedding=0",
        "features.win_ms=0",
        "warm_start.optimizer={_target_: torch.optim.SGD, momentum: -1}",
        "personalisation.optimizer={_target_: torch.optim.Adam, betas: [2, 2]}",
    ],
)
def test_an_impossible_value_names_the_key(run, argument: str) -> None:
    outcome = run(argument)
    assert outcome.code == 2
    named = "weighting" if argument.startswith("weighting.temp") else argument.split("=")[0]
    assert named in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("federation.clients.deal=dirichlet", "federation.clients.count"),
        ("federation.clients.count=3 federation.cohort=4", "federation.cohort=4"),
        ("federation.rounds=3 federation.average_last=4", "federation.average_last=4"),
        ("central.average_last=0.5 central.early_stop=3", "central.early_stop"),
        ("data.parts.dev_share=0.6 data.parts.test_share=0.4", "data.parts.test_share=0.4"),
        ("data.parts.warm_up_file=who.txt", "data.parts.warm_up_file"),
        ("data.parts.warm_up_speakers=null", "data.parts.warm_up_speakers"),
        ("data.parts.warm_up_speakers=null data.parts.warm_up_hours=0", "warm_start=MODEL"),
        ("features.win_ms=50", "features.n_fft=400"),
        ("features.hop_ms=30", "features.hop_ms=30"),
        ("features.n_mels=3 model.cnn_channels=[8,8]", "features.n_mels=3"),
        ("loss.ctc_weight=1 evaluation.test_decoder=ctc_greedy warm_start.ctc_epochs=2", "warm_start.ctc_epochs=2"),
        ("model.folder=encoder", "set model=pretrained, or model.folder=null"),
        ("algorithm._target_=asr_fed.algorithms.fed_vssl.FedVssl", "algorithm=fed_vssl is for a pre-training"),
        (
            "+client=adam federation.lr=0.001 federation.held_out.lr=0.01 data.parts.held_out_speakers=1",
            "set federation.held_out.lr, such as 0.0005",
        ),
        (f"{VSSL} federation.held_out.epochs=0", "federation.held_out.epochs=1, with"),
        (f"{VSSL} data.parts.held_out_speakers=0", "federation.held_out.replay_warm_up or"),
        (
            f"{VSSL} data.parts.held_out_speakers=1 +simulation=phones simulation.buffer=2",
            "leave out federation.buffer",
        ),
        ("mode=central central.start=scratch warm_start.encoder=run", "set central.start=warm_start"),
        (
            "central.after_federation=true central.start=scratch warm_start=model.pt data.parts.warm_up_speakers=0",
            "takes the features' mean from the warm-up speech",
        ),
        ("mode=central engine=deployment engine.address=localhost:8000", "set engine=local"),
        (
            "engine=deployment engine.address=localhost:8000 federation.round_timeout=9 federation.client_timeout=9 "
            "central.after_federation=true central.start=warm_start",
            "set central.after_federation=false",
        ),
        ("engine=deployment engine.address=null", "engine.address"),
        ("federation.robust.clip=1.0", "federation.robust"),
        ("engine=deployment federation.clients.wrong_transcripts=0.3", "federation.clients.wrong_transcripts"),
        ("engine=deployment engine.address=10.0.0.2:8000", "engine.certificates"),
        ("engine=deployment data.parts.transcribed=0.3", "data.parts.transcribed"),
        ("engine=deployment engine.address=localhost:8000", "federation.round_timeout"),
        ("engine=deployment engine.address=localhost:8000 federation.robust.rule=multi_krum engine.nodes=4", "5 nodes"),
        (f"{KRUM} federation.buffer=6", "liars=2 needs 7 nodes in each step, and federation.buffer=6"),
        ("engine=deployment engine.address=localhost:8000 federation.round_timeout=9", "federation.client_timeout"),
    ],
)
def test_values_that_contradict_each_other_are_named(run, arguments: str, named: str) -> None:
    outcome = run(*arguments.split())
    assert outcome.code == 2
    assert named in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("weighting=wer_softmax", "weighting=num_examples"),
        ("task.kind=best_rq warm_start.checkpoint=null", "federation.pseudo_labels.every=null"),
        ("personalise=true federation.clients.dev_fraction=0.2", "personalise=true"),
        ("loss.ctc_weight=0 evaluation.test_decoder=attention_greedy", "CTC head"),
        ("federation.pseudo_labels.min_rate=40.0", "federation.pseudo_labels.min_rate=40"),
        ("federation.pseudo_labels.min_agreement=0.5 augment.speeds=[1.0]", "augment.speeds=[0.9,1.0,1.1]"),
        ("federation.pseudo_labels.every=0", "federation.pseudo_labels.every=0"),
        ("data.parts.transcribed=0.5 data.parts.transcribed_file=who.txt", "data.parts.transcribed_file"),
    ],
)
def test_training_on_own_hypotheses_is_refused_where_it_cannot_work(run, arguments: str, named: str) -> None:
    own = ("federation.pseudo_labels.every=2", "weighting=num_examples", "evaluation.dev_decoder=attention_greedy")
    own = own if "ctc_weight=0" in arguments else own[:2]
    outcome = run(*own, *arguments.split())
    assert outcome.code == 2 and named in outcome.err and "Traceback" not in outcome.err


def test_pauses_in_training_need_a_mean_that_they_do_not_move(run) -> None:
    outcome = run("features.subtract_mean=true", "features.mean_gate_db=null")
    assert outcome.code == 2 and "augment.pauses=0" in outcome.err


def test_an_unknown_choice_lists_the_choices(run) -> None:
    outcome = run("weighting=wer_softmx")
    assert outcome.code == 2
    for choice in ("wer_softmx", "wer_softmax", "uniform"):
        assert choice in outcome.err


def test_a_missing_experiment_file_is_named(run, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["train_fed.py", "no_such.yaml"])
    assert train.main() == 2
    assert "no_such.yaml" in capsys.readouterr().err


def test_a_file_of_ones_own_takes_the_groups_that_come_with_us(run) -> None:
    outcome = run("--cfg", "job", "model=crdnn", "server=lamb")
    assert outcome.code == 0
    assert "rnn_neurons: 1024" in outcome.out and "Lamb" in outcome.out


def test_a_value_that_is_missing_is_asked_for_by_name(run) -> None:
    """Also where another value is made of it, as in the experiments that come with us."""
    target = "{_target_: asr_fed.data_prep.table.prepare, root: '${data.root}'}"
    outcome = run("data.root=???", f"data.prepare={target}")
    assert outcome.code == 2
    assert outcome.err.startswith("asr-fed: No value for data.root:")


EXPERIMENTS = sorted(path.name for path in experiments_folder().glob("*.yaml"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_that_comes_with_us_is_valid(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Up to the point where work would begin."""
    started: list[object] = []
    monkeypatch.setattr("asr_fed.pipeline.train.train", lambda config, command: started.append(config))
    monkeypatch.chdir(tmp_path)
    GlobalHydra.instance().clear()
    monkeypatch.setattr("sys.argv", ["train_fed.py", f"hparams/{name}", "data.root=somewhere"])
    assert train.main() == 0
    assert len(started) == 1, capsys.readouterr().err


@pytest.mark.parametrize("group", ["model", "federation", "weighting", "server", "engine"])
def test_every_choice_of_a_group_is_valid(
    group: str, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[object] = []
    monkeypatch.setattr("asr_fed.pipeline.train.train", lambda config, command: started.append(config))
    choices = sorted(path.stem for path in (experiments_folder() / group).glob("*.yaml"))
    for choice in choices:
        folder = ["model.folder=encoder"] if choice == "pretrained" else []
        outcome = run(f"{group}={choice}", "federation.round_timeout=9", "federation.client_timeout=9", *folder)
        assert outcome.code == 0, outcome.err
    assert len(started) == len(choices) > 0


def test_an_experiment_file_in_another_encoding_is_refused_in_a_sentence(run) -> None:
    outcome = run(yaml="# été", encoding="latin-1")
    assert outcome.code == 2 and "mine.yaml is not UTF-8" in outcome.err and outcome.err.count("\n") == 1


@pytest.mark.parametrize(
    ("decoder", "beam_ctc_weight", "good"),
    [
        (Decoder.ctc_greedy, 0.4, {0.3, 1}),
        (Decoder.attention_greedy, 0.4, {0, 0.3}),
        (Decoder.beam, 0.4, {0.3}),
        (Decoder.beam, 0, {0, 0.3}),
        (Decoder.beam, 1, {0.3, 1}),
    ],
)
def test_a_decoder_needs_what_the_loss_trains(decoder: Decoder, beam_ctc_weight: float, good: set[float]) -> None:
    check_decoder(decoder, beam_ctc_weight, None, "key")
    for ctc_weight in (0, 0.3, 1):
        if ctc_weight in good:
            check_decoder(decoder, beam_ctc_weight, ctc_weight, "key")
        else:
            with pytest.raises(
                UserError, match=f"key={decoder.name} .*a loss.ctc_weight of {ctc_weight} does not train"
            ):
                check_decoder(decoder, beam_ctc_weight, ctc_weight, "key")


def test_a_loss_without_ctc_refuses_the_joint_beam_that_is_the_default(run) -> None:
    outcome = run(
        "loss.ctc_weight=0", "evaluation.dev_decoder=attention_greedy", "evaluation.client_decoder=attention_greedy"
    )
    assert outcome.code == 2
    assert "evaluation.test_decoder=beam with a beam_ctc_weight of 0.4 needs the CTC head" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("simulation.tau=-2",), "simulation.tau=-2"),
        (("simulation.late=drop",), "simulation.late=drop needs simulation.tau"),
        (("simulation.tau=60",), "simulation.tau=60 has no effect while simulation.late=wait"),
        (("simulation.devices=phone",), "no table of devices 'phone'"),
        (("simulation.network=0",), "simulation.network=0"),
        (("simulation.devices=mine.csv",), "mine.csv"),
        (("simulation.taus=3",), "Did you mean 'simulation.tau'"),
        (("simulation.late=dropped",), "simulation.late"),
        (("simulation.reference.train_seconds=0",), "simulation.reference.train_seconds=0"),
    ],
)
def test_a_simulation_that_cannot_be_meant_is_refused(run, arguments: tuple[str, ...], says: str) -> None:
    outcome = run("+simulation=phones", *arguments)
    assert outcome.code == 2 and says in outcome.err and "Traceback" not in outcome.err


DEPLOYED = ("engine=deployment", "engine.address=127.0.0.1:9093", "federation.buffer=2")
TIMEOUTS = ("federation.round_timeout=60", "federation.client_timeout=60")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("federation.buffer=2",), "needs engine=deployment"),
        ((*DEPLOYED, *TIMEOUTS, "+simulation=phones"), "leave one of them out"),
        ((*DEPLOYED, *TIMEOUTS, "federation.over_commit=1.3"), "no meaning with federation.buffer"),
        ((*DEPLOYED, *TIMEOUTS, "federation.robust.node_share=0.3"), "federation.robust.node_share=0.3"),
        ((*DEPLOYED, "federation.client_timeout=60"), "needs federation.round_timeout"),
        ((*DEPLOYED, *TIMEOUTS, "federation.buffer=0"), "federation.buffer=0"),
    ],
)
def test_a_buffer_of_real_answers_is_for_real_nodes(run, arguments: tuple[str, ...], says: str) -> None:
    outcome = run(*arguments)
    assert outcome.code == 2 and says in outcome.err and "Traceback" not in outcome.err
    assert "buffer: 2" in run(*DEPLOYED, *TIMEOUTS, "--cfg", "job").out


def test_a_simulation_is_off_unless_it_is_chosen(run) -> None:
    assert "simulation: null" in run("--cfg", "job").out
    chosen = run("+simulation=phones", "simulation.late=partial", "simulation.tau=60", "--cfg", "job").out
    assert "devices: phones" in chosen and "tau: 60.0" in chosen
