"""Pre-training: codes of a random projection, contrasts, masks, a loss that falls, a federation that ends in the same
bits."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch.nn import functional

from asr_fed.aggregation.weighting import NumExamples
from asr_fed.commands.compare import compare
from asr_fed.config.check import check_shared
from asr_fed.config.schema import TaskConfig
from asr_fed.data.batching import training_batches
from asr_fed.data.manifest import Utterance, read_manifest
from asr_fed.federation.rounds import run_federation
from asr_fed.federation.shared_config import shared_config
from asr_fed.model.best_rq import BestRq, RandomProjectionQuantiser, level
from asr_fed.model.contrastive import Contrastive
from asr_fed.model.recogniser import load_recogniser
from asr_fed.model.state import frozen_sha256, layout, read_state
from asr_fed.pipeline.pretraining import evaluate_pretraining, evaluate_recognition, write_pretraining
from asr_fed.pipeline.results import made_by
from asr_fed.pipeline.train import fine_tune, reference, to_fine_tune_on, train, warm_start
from asr_fed.reporting.compare import describe_run
from asr_fed.reporting.evaluation_files import read_evaluation
from asr_fed.reporting.progress import RunProgress
from asr_fed.runs.experiment import Experiment, prepare_experiment
from asr_fed.runs.records import read_epochs
from asr_fed.runs.run_dir import begin_run
from asr_fed.runs.summary import PretrainingSummary, read_any_summary, read_summary
from asr_fed.system.errors import UserError
from asr_fed.system.randomness import generator, seed_everything
from asr_fed.tasks.learners import load_pretrainer, save_learner
from asr_fed.tasks.masked_speech import MaskedSpeech, draw_mask
from asr_fed.training.epoch import train_epoch
from asr_fed.wire.hosts import RemoteNodes
from tests.federation.test_rounds import InProcess
from tests.tiny import Corpus, settings, typed_config, write_table

TASK = (
    "task.kind=best_rq",
    "task.codebook_size=12",
    "task.code_dim=4",
    "task.mask_probability=0.05",
    "task.mask_ms=80",
)
PLAIN = ("weighting._target_=asr_fed.aggregation.weighting.NumExamples", "warm_start.epochs=0", "federation.rounds=2")


@pytest.fixture
def make(experiment: Experiment, corpus: Corpus, prepared: Path, tmp_path: Path) -> Callable[..., Experiment]:
    """The session's experiment as a pre-training, in a run directory of its own."""

    def changed(*changes: str, name: str = "run") -> Experiment:
        config = typed_config(settings(corpus, prepared, tmp_path / name), *TASK, *PLAIN, *changes)
        return replace(experiment, config=config, run_dir=tmp_path / name)

    return changed


def masked_speech(own: Experiment) -> MaskedSpeech:
    made = own.task(own.fresh_learner(), torch.device("cpu"))
    assert isinstance(made, MaskedSpeech)
    return made


@pytest.fixture
def task(make: Callable[..., Experiment]) -> MaskedSpeech:
    return masked_speech(make())


@pytest.fixture(params=["best_rq", "contrastive"])
def either(make: Callable[..., Experiment], request: pytest.FixtureRequest) -> MaskedSpeech:
    return masked_speech(make(f"task.kind={request.param}"))


def test_its_pooled_reference_is_recorded_by_its_loss_and_not_under_the_name_of_a_wer(
    make: Callable[..., Experiment],
) -> None:
    own = make("mode=central", "central.epochs=2", "central.evaluate_every=2", "central.start=scratch")
    own.checkpoints.mkdir(parents=True)
    with RunProgress() as progress:
        reference(own, progress)
    first, second = read_epochs(own.run_dir, "central")
    assert first.dev_loss is None and second.dev_loss is not None and second.accuracy is not None
    assert all(each.wer is None and each.best_wer is None for each in (first, second))


def test_a_code_is_the_nearest_entry_of_the_codebook() -> None:
    quantiser = RandomProjectionQuantiser(6, TaskConfig(codebook_size=50, code_dim=3), seed=1)
    x = torch.randn(4, 7, 6, generator=torch.Generator().manual_seed(1))
    projected = functional.normalize(x @ quantiser.projection, dim=-1)
    expected = torch.cdist(projected, quantiser.codebook.expand(4, 50, 3)).argmin(-1)
    torch.testing.assert_close(quantiser(x), expected)
    assert len(expected.unique()) > 10
    torch.testing.assert_close(quantiser.codebook.norm(dim=-1), torch.ones(50))


def test_level_codes_are_those_of_each_utterance_by_itself_whatever_its_channel(
    make: Callable[..., Experiment],
) -> None:
    """A louder band and one that lies higher change the codes of the features, not those of levelled ones; padding
    neither."""
    features = torch.randn(2, 12, 16, generator=torch.Generator().manual_seed(1))
    frames = torch.tensor([12, 8])
    features[1, 8:] = 0
    channel = torch.where(torch.arange(12)[:, None] < frames[:, None, None], 3 * features + torch.arange(16), 0.0)
    plain, levelled = (make(f"task.level_codes={told}").fresh_learner().model for told in (False, True))
    assert isinstance(plain, BestRq) and isinstance(levelled, BestRq)
    states = -(-frames[1] // plain.encoder.stride)
    assert not torch.equal(plain.codes(features, frames), plain.codes(channel, frames))
    expected = levelled.codes(features, frames)
    assert torch.equal(levelled.codes(channel, frames)[0], expected[0])
    assert torch.equal(levelled.codes(channel, frames)[1, :states], expected[1, :states])
    assert torch.equal(levelled.codes(features[1:, :8], frames[1:])[0], expected[1, :states])
    short = (features[1, :8] - features[1, :8].mean(0)) / features[1, :8].std(0, correction=0)
    torch.testing.assert_close(level(features, frames)[1, :8], short)


def test_projection_and_codebook_come_of_the_seed_are_in_no_update_and_are_compared(
    make: Callable[..., Experiment], task: MaskedSpeech
) -> None:
    model = task.model
    names = layout(model).names
    assert "head.weight" in names and "feature_mean" in names
    assert not [name for name in names if name.startswith("quantiser.")]
    again, other = (make(*change).fresh_learner().model for change in ((), ("seed=8",)))
    assert frozen_sha256(model) == frozen_sha256(again) != frozen_sha256(other)
    setups = {shared_config(make(), each).sha256 for each in (model, again, other)}
    assert len(setups) == 2


def test_the_contrast_is_the_papers_formula_within_an_utterance(
    make: Callable[..., Experiment], experiment: Experiment
) -> None:
    """wav2vec 2.0, formula 3, as a plain loop; what stands in one utterance does not change another's."""
    task = masked_speech(make("task.kind=contrastive", "task.temperature=0.2"))
    model = task.model
    assert isinstance(model, Contrastive)
    model.eval()
    batch = task.collate(experiment.partition.warm_up[:3], generator(1, "test"))
    logits, right = model.guess(batch.masked, batch.clean, batch.frames, batch.mask)
    states, _ = model.encoder(batch.masked, batch.frames)
    losses = []
    for number, mask in enumerate(batch.mask):
        places = mask.nonzero()[:, 0].tolist()
        context = [model.head["context"](states[number, place]) for place in places]
        stride = model.encoder.stride
        features = functional.pad(batch.clean[number], (0, 0, 0, stride))
        target = [model.head["target"](features[stride * t : stride * (t + 1)].flatten()) for t in places]
        for t, c in enumerate(context):
            similar = torch.stack([functional.cosine_similarity(c, q, dim=0) / 0.2 for q in target])
            losses.append(-(similar[t].exp() / similar.exp().sum()).log())
    assert len(losses) == len(right) > len(batch.mask)
    torch.testing.assert_close(functional.cross_entropy(logits, right, reduction="none"), torch.stack(losses))
    louder = batch.clean.clone()
    louder[1] *= torch.linspace(1, 3, louder.shape[2])
    changed, _ = model.guess(batch.masked, louder, batch.frames, batch.mask)
    first = batch.mask.nonzero()[:, 0] == 0
    assert torch.equal(changed[first], logits[first]) and not torch.equal(changed[~first], logits[~first])
    silent, _ = model.guess(batch.masked, torch.zeros_like(batch.clean), batch.frames, batch.mask)
    only_itself = silent.isfinite().sum(1) == 1
    assert only_itself.all()


def test_bfloat16_is_kept_out_of_codes_and_cosines(either: MaskedSpeech, experiment: Experiment) -> None:
    quantiser = RandomProjectionQuantiser(80, TaskConfig(codebook_size=256, code_dim=16), seed=1)
    x = torch.randn(1000, 80, generator=torch.Generator().manual_seed(1))
    batch, codes = either.collate(experiment.partition.warm_up[:3], generator(1, "test")), quantiser(x)
    with torch.autocast("cpu", torch.bfloat16):
        again = quantiser(x)
        logits, _ = either.model.guess(batch.masked, batch.clean, batch.frames, batch.mask)
    assert torch.equal(again, codes) and logits.dtype is torch.float32


def test_a_mask_covers_spans_and_at_least_one(task: MaskedSpeech) -> None:
    rng = np.random.default_rng(0)
    masks = [draw_mask(40, 0.02, 5, rng) for _ in range(500)]
    assert all(mask.any() for mask in masks)
    assert 0.08 < np.mean(masks) < 0.2
    assert draw_mask(3, 1e-9, 5, rng).sum() >= 1


def test_the_encoder_does_not_see_what_it_has_to_predict(task: MaskedSpeech, experiment: Experiment) -> None:
    batch = task.collate(experiment.partition.warm_up[:4], generator(1, "test"))
    hidden = batch.mask.repeat_interleave(task.model.encoder.stride, dim=1)[:, : batch.clean.shape[1]]
    assert torch.equal(batch.masked[~hidden], batch.clean[~hidden])
    assert batch.masked[hidden].std() < 0.2 < batch.clean[hidden].std()
    ends = -(-batch.frames // task.model.encoder.stride)
    assert not any(mask[end:].any() for mask, end in zip(batch.mask, ends, strict=True))


def test_it_learns_and_an_evaluation_does_not_depend_on_its_batches(
    either: MaskedSpeech, experiment: Experiment
) -> None:
    task = either
    speech, dev = experiment.partition.warm_up, experiment.partition.dev
    before, rng = task.evaluate(speech, "dev"), seed_everything(1, "test")
    optimizer = torch.optim.Adam([p for p in task.model.parameters() if p.requires_grad], lr=0.02)
    for _ in range(25):
        train_epoch(task, training_batches(speech, experiment.config.federation.batch, rng), optimizer, rng, clip=5.0)
    learned, after = task.evaluate(speech, "dev"), task.evaluate(dev, "dev")
    assert learned.loss < 0.92 * before.loss and learned.accuracy > before.accuracy
    whole = task.state_variance(dev)
    parts = [task.state_variance([utterance]) for utterance in dev]
    assert sum(each.states for each in parts) == whole.states
    np.testing.assert_allclose(sum(each.total for each in parts), whole.total, rtol=1e-4, atol=1e-3)
    single = [task.evaluate([utterance], "dev") for utterance in dev]
    assert sum(each.masked for each in single) == after.masked
    assert sum(each.wrong for each in single) == after.wrong
    assert sum(each.loss_sum for each in single) == pytest.approx(after.loss_sum, rel=1e-4)


@pytest.mark.parametrize("kind", ["best_rq", "contrastive"])
def test_two_workers_and_one_that_is_interrupted_end_in_the_same_bits_and_the_encoder_is_fine_tuned(
    kind: str, make: Callable[..., Experiment]
) -> None:
    tuning = (f"task.kind={kind}", "fine_tune.epochs=1", "fine_tune.lr=0.01")
    config = make(*tuning, name="whole").config
    summary = train(config)
    assert isinstance(summary, PretrainingSummary)
    own = make(*tuning, name="resumed")
    save_learner(own.fresh_learner(), own.config, own.checkpoints / "warm_start.pt")

    class Interrupted(Exception):
        pass

    def interrupt(history: Any) -> None:
        raise Interrupted

    hosts = RemoteNodes(InProcess(own, NumExamples()))  # type: ignore[arg-type]
    with pytest.raises(Interrupted):
        run_federation(own, hosts, on_round=interrupt)
    state = run_federation(own, RemoteNodes(InProcess(own, NumExamples())))  # type: ignore[arg-type]
    begin_run(own.config)
    with RunProgress() as progress:
        tests = evaluate_pretraining(own, progress)
        for _ in range(2):  # the second finds them trained
            fine_tune(own, progress)
        heard = evaluate_recognition(own, progress)
        found = write_pretraining(own, state, tests, made_by(1.0, ""), heard)
    assert found.weights_sha256 == summary.weights_sha256
    assert found.systems == summary.systems
    assert found.recognition == summary.recognition and list(found.recognition) == ["fine_tuned", "from_scratch"]
    assert found.difference == summary.difference is not None
    tuned_wer, scratch_wer = (each.wer for each in found.recognition.values())
    assert found.difference.difference == pytest.approx(tuned_wer - scratch_wer)
    best = min(record.dev_loss for record in state.history if record.dev_loss is not None)
    assert state.best_wer <= best and state.history[0].wer is None and state.history[0].accuracy is not None
    assert all(0 < each.between < 100 and each.effective_rank > 1 for each in found.systems.values())  # type: ignore[operator]
    page = (Path(config.run_dir) / "report.html").read_text()
    assert f"{summary.test_accuracy:.2f} %" in page and "Guessed right" in page
    assert all(f"<td>{each.wer:.2f}</td>" in page for each in summary.recognition.values())
    sets = [read_evaluation(Path(config.run_dir) / "evaluation" / name) for name in summary.recognition]
    assert [each.wer for each in sets] == [each.wer for each in summary.recognition.values()]
    record = describe_run([], None, summary)
    assert record["test_wer"] == tuned_wer and json.loads(json.dumps(record)) == record
    with pytest.raises(UserError, match="is a pre-training"):
        read_summary(Path(config.run_dir))
    assert read_any_summary(Path(config.run_dir)) == summary
    compare([Path(config.run_dir), own.run_dir], own.run_dir / "compared")
    table = (own.run_dir / "compared" / "comparison.md").read_text()
    assert table.count(f"| {tuned_wer:.2f} | {scratch_wer:.2f} |") == 2 and "+0.00" in table

    tuned = make("task.kind=recognition", f"warm_start.encoder={config.run_dir}", name="tuned")
    tuned.run_dir.mkdir()
    with RunProgress() as progress:
        warm_start(tuned, progress)

    start, pretrained = (
        load_recogniser(tuned.checkpoints / "warm_start.pt").model,
        load_pretrainer(Path(config.run_dir)),
    )
    assert read_state(start.encoder).tobytes() == read_state(pretrained.model.encoder).tobytes()
    assert torch.equal(start.feature_mean, pretrained.model.feature_mean)
    wider = make("task.kind=recognition", f"warm_start.encoder={config.run_dir}", "model.rnn_neurons=9", name="wider")
    with RunProgress() as progress, pytest.raises(UserError, match="It needs model.rnn_neurons=8"):
        warm_start(wider, progress)


def test_transcripts_that_fine_tuning_cannot_use_are_left_out_and_refused_where_they_are_many(
    make: Callable[..., Experiment],
) -> None:
    experiment = make()
    first, *others = experiment.partition.warm_up
    assert len(others) > 4

    def spoken(*warm_up: Utterance) -> Experiment:
        return replace(experiment, partition=replace(experiment.partition, warm_up=warm_up))

    long = [replace(each, text=" ".join([each.text] * 99)) for each in (first, *others)]
    assert to_fine_tune_on(spoken(long[0], *others)).warm_up == tuple(others)
    with pytest.raises(UserError, match="more tokens than the encoder has states"):
        to_fine_tune_on(spoken(*long[:3], *others[2:]))
    assert to_fine_tune_on(spoken(*long[:3], *others[2:]), most=1.0).warm_up == tuple(others[2:])


def test_a_linear_probe_trains_the_ctc_head_on_the_encoder_as_it_is(make: Callable[..., Experiment]) -> None:
    """Also if it is interrupted. The encoder's BatchNorm keeps its statistics, too."""
    given = make(name="given")
    pretrained = given.fresh_learner()
    with torch.no_grad():
        for tensor in pretrained.model.encoder.state_dict().values():
            tensor.add_(1)
    save_learner(pretrained, given.config, given.checkpoints / "federated.pt")
    with pytest.raises(UserError, match=r"is of a pre-training, .* give checkpoints/fine_tuned\.pt"):
        load_recogniser(given.checkpoints / "federated.pt")
    encoder = f"warm_start.encoder={given.checkpoints / 'federated.pt'}"
    probe = ("task.kind=recognition", "loss.ctc_weight=1.0", encoder, "warm_start.frozen=[encoder]")

    def probed(name: str, *epochs: int) -> dict[str, torch.Tensor]:
        for count in epochs:
            own = make(*probe, f"warm_start.epochs={count}", name=name)
            own.run_dir.mkdir(exist_ok=True)
            (own.checkpoints / "warm_start.pt").unlink(missing_ok=True)
            with RunProgress() as progress:
                warm_start(own, progress)
        return load_recogniser(own.checkpoints / "warm_start.pt").model.state_dict()

    trained, resumed, before = probed("straight", 3), probed("resumed", 1, 3), probed("before", 0)
    theirs = pretrained.model.state_dict()
    for name, tensor in trained.items():
        assert torch.equal(tensor, resumed[name]), name
        if name.startswith("encoder."):
            assert torch.equal(tensor, theirs[name]), name
    moved = {name for name in trained if not torch.equal(trained[name], before[name])}
    assert moved == {name for name in trained if name.startswith("ctc_head.")}
    wrong = make(*probe, "warm_start.frozen=[encodr]", name="wrong")
    with RunProgress() as progress, pytest.raises(UserError, match=r"warm_start\.frozen: .*no part 'encodr'.*encoder"):
        warm_start(wrong, progress)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["fine_tune.epochs=1", "fine_tune.frozen=[encodr]"], r"fine_tune\.frozen: the model has no part 'encodr'"),
        (["warm_start.frozen=[haed]"], r"warm_start\.frozen: the model has no part 'haed'.*head"),
        (["task.kind=recognition", "warm_start.encoder=nowhere"], "no pre-trained encoder at nowhere"),
    ],
)
def test_what_only_the_model_can_tell_is_refused_before_any_work(
    changes: list[str], told: str, make: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asr_fed.runs.experiment.prepare_features", lambda *arguments: pytest.fail("work began"))
    with pytest.raises(UserError, match=told):
        prepare_experiment(make(*changes).config)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("weighting._target_=asr_fed.aggregation.weighting.WerSoftmax", "no word errors to weigh"),
        ("personalise=true", "trains none"),
        ("warm_start.encoder=somewhere", "starts from random weights"),
        ("task.kind=contrastive,task.level_codes=true", "task.kind=contrastive has none"),
    ],
)
def test_what_needs_words_is_refused(change: str, told: str) -> None:
    more = ("augment.pauses=0.0", "federation.clients.dev_fraction=0.2")
    with pytest.raises(UserError, match=told):
        check_shared(OmegaConf.structured(typed_config({}, *TASK, *PLAIN, *more, *change.split(","))))


def test_a_recogniser_is_fine_tuned_after_a_pretraining_only() -> None:
    with pytest.raises(UserError, match=r"fine_tune\.epochs=3 follows a pre-training"):
        check_shared(OmegaConf.structured(typed_config({}, "fine_tune.epochs=3")))


def test_a_table_without_any_transcript_is_pretrained_on(corpus: Corpus, tmp_path: Path) -> None:
    rows = [line.split("\t")[:2] for line in corpus.table.read_text().splitlines()[1:]]
    silent = corpus.table.with_name("silent.tsv")
    write_table(silent, [(path, speaker, " ") for path, speaker in rows])
    content = settings(corpus, tmp_path / "prepared", tmp_path / "run")
    content["data"] |= {"root": str(silent)}
    content["data"]["prepare"] |= {"untranscribed": True}
    summary = train(typed_config(content, *TASK, *PLAIN, "federation.rounds=1"))
    assert isinstance(summary, PretrainingSummary) and summary.clients == 5 and not summary.recognition
    kept = read_manifest(tmp_path / "prepared" / "manifest.csv", untranscribed=True)
    assert len(kept) == corpus.good and not any(utterance.text for utterance in kept)
    with pytest.raises(UserError, match="9 of 9 speakers have utterances without transcript"):
        train(typed_config(content, *TASK, *PLAIN, "fine_tune.epochs=1", f"run_dir={tmp_path / 'tuned'}"))
