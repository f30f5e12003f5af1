"""Folders as SpeechBrain publishes them: made here with its own modules, opened as ours, and trained on."""

import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
from hyperpyyaml import load_hyperpyyaml
from speechbrain.decoders.seq2seq import S2SRNNGreedySearcher

from asr_fed.commands.train import hydra_arguments
from asr_fed.config.schema import Decoder, EvaluationConfig
from asr_fed.data.batching import Batch
from asr_fed.data.tokenizer import BLANK, BOS, EOS, Tokenizer
from asr_fed.interop.open_recogniser import open_recogniser
from asr_fed.interop.speechbrain.widen import widen_tokenizer
from asr_fed.interop.speechbrain.writer import export_recogniser
from asr_fed.model.decoding import decode
from asr_fed.model.recogniser import Recogniser
from asr_fed.pipeline.train import train
from asr_fed.runs.experiment import prepare_experiment
from asr_fed.system.errors import UserError
from tests.tiny import TEXTS, Corpus, settings, tiny_recogniser, typed_config

HYPERPARAMS = """
sample_rate: 16000
n_fft: 400
n_mels: 16
activation: !name:torch.nn.LeakyReLU
dropout: 0.1
cnn_channels: (4, 5, 6)
inter_layer_pooling_size: (2, 2, 2)
time_pooling_size: 4
rnn_class: !name:speechbrain.nnet.RNN.LSTM
dnn_neurons: 12
emb_size: 6
dec_neurons: 10
output_neurons: {tokens}
blank_index: 0
bos_index: 0
eos_index: 0

normalizer: !new:speechbrain.processing.features.InputNormalization
    norm_type: global
compute_features: !new:speechbrain.lobes.features.Fbank
    sample_rate: !ref <sample_rate>
    n_fft: !ref <n_fft>
    n_mels: !ref <n_mels>
enc: !new:speechbrain.lobes.models.CRDNN.CRDNN
    input_shape: [null, null, !ref <n_mels>]
    activation: !ref <activation>
    dropout: !ref <dropout>
    cnn_blocks: 3
    cnn_channels: !ref <cnn_channels>
    cnn_kernelsize: (3, 3)
    inter_layer_pooling_size: !ref <inter_layer_pooling_size>
    time_pooling: True
    using_2d_pooling: False
    time_pooling_size: !ref <time_pooling_size>
    rnn_class: !ref <rnn_class>
    rnn_layers: 2
    rnn_neurons: 8
    rnn_bidirectional: True
    rnn_re_init: True
    dnn_blocks: 2
    dnn_neurons: !ref <dnn_neurons>
emb: !new:speechbrain.nnet.embedding.Embedding
    num_embeddings: !ref <output_neurons>
    embedding_dim: !ref <emb_size>
dec: !new:speechbrain.nnet.RNN.AttentionalRNNDecoder
    enc_dim: !ref <dnn_neurons>
    input_size: !ref <emb_size>
    rnn_type: gru
    attn_type: location
    hidden_size: !ref <dec_neurons>
    attn_dim: 9
    num_layers: 1
    scaling: 1.0
    channels: 3
    kernel_size: 7
    re_init: True
    dropout: !ref <dropout>
ctc_lin: !new:speechbrain.nnet.linear.Linear
    input_size: !ref <dnn_neurons>
    n_neurons: !ref <output_neurons>
seq_lin: !new:speechbrain.nnet.linear.Linear
    input_size: !ref <dec_neurons>
    n_neurons: !ref <output_neurons>
asr_model: !new:torch.nn.ModuleList
    - [!ref <enc>, !ref <emb>, !ref <dec>, !ref <ctc_lin>, !ref <seq_lin>]
lm_model: !new:torch.nn.Identity
tokenizer: !new:sentencepiece.SentencePieceProcessor
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        normalizer: !ref <normalizer>
        asr: !ref <asr_model>
        lm: !ref <lm_model>
        tokenizer: !ref <tokenizer>
"""
# What the config has to say of it, as hparams/model/crdnn_speechbrain.yaml does of the published one.
GEOMETRY: dict[str, Any] = {
    "cnn_channels": [4, 5, 6],
    "cnn_kernel": [3, 3],
    "pool_2d": False,
    "time_pooling": 4,
    "rnn_layers": 2,
    "rnn_neurons": 8,
    "dnn_blocks": 2,
    "dnn_neurons": 12,
    "embedding": 6,
    "decoder_neurons": 10,
    "attention_dim": 9,
    "attention_channels": 3,
    "attention_kernel": 7,
    "dropout": 0.1,
}


@dataclass(frozen=True)
class Published:
    """The folder, and SpeechBrain's own modules that were saved in it."""

    folder: Path
    stock: dict[str, Any]
    tokenizer: bytes


def train_sentencepiece(kind: str, size: int) -> bytes:
    """As SpeechBrain's recipes do: 0 is unknown, and there is neither beginning nor end of sentence."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 5),
        model_writer=model,
        model_type=kind,
        vocab_size=size,
        **{"unk_id": 0, "bos_id": -1, "eos_id": -1, "pad_id": -1},
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return model.getvalue()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    folder = tmp_path_factory.mktemp("published") / "asr-crdnn"
    folder.mkdir()
    proto = train_sentencepiece("unigram", 24)
    text = HYPERPARAMS.format(tokens=len(Tokenizer(proto)))
    (folder / "hyperparams.yaml").write_text(text)
    torch.manual_seed(2)
    stock = load_hyperpyyaml(text)
    for _ in range(3):  # statistics of the normaliser and of BatchNorm
        stock["enc"](stock["normalizer"](torch.randn(4, 80, 16) * 5 - 20))
    stock["asr_model"].eval()
    stock["normalizer"].eval()
    with torch.no_grad():
        for name, parameter in stock["asr_model"].named_parameters():  # hypotheses that are long and differ
            if parameter.dim() > 1 and not name.startswith("0.RNN"):
                parameter.mul_(3)
        stock["seq_lin"].w.bias[0] = -2.0
        stock["ctc_lin"].w.bias[0] = -2.0
    torch.save(stock["asr_model"].state_dict(), folder / "asr.ckpt")
    stock["normalizer"]._save(folder / "normalizer.ckpt")
    (folder / "tokenizer.ckpt").write_bytes(proto)
    return Published(folder, stock, proto)


@pytest.fixture(scope="module")
def opened(published: Published) -> Recogniser:
    recogniser = open_recogniser(published.folder)
    recogniser.model.eval()
    return recogniser


@torch.no_grad()
def test_every_module_computes_what_the_stock_one_does(published: Published, opened: Recogniser) -> None:
    stock, model = published.stock, opened.model
    features = torch.randn(2, 90, 16) * 5 - 20
    normalised = stock["normalizer"](features)
    assert torch.equal(model.normalise(features), normalised)
    states = stock["enc"](normalised)
    assert torch.equal(model.encoder.crdnn(normalised), states)
    tokens = torch.tensor([[0, 5, 3, 0, 7], [0, 1, 1, 2, 0]])
    ours = torch.where(tokens == 0, BOS, tokens + 2)
    inputs = stock["emb"](tokens)
    assert torch.equal(model.embedding(ours), inputs)
    outputs, _ = stock["dec"](inputs, states, torch.ones(2))
    stock["dec"].attn.reset()
    assert torch.equal(model.decoder(inputs, states, torch.ones(2))[0], outputs)
    model.decoder.attn.reset()
    for theirs, mine, moved in (
        (stock["ctc_lin"](states), model.ctc_head(states), BLANK),
        (stock["seq_lin"](outputs), model.decoder_head(outputs), EOS),
    ):
        torch.testing.assert_close(mine[..., EOS + 1 :], theirs[..., 1:])
        torch.testing.assert_close(mine[..., moved], theirs[..., 0])
        silent = [token for token in (BLANK, BOS, EOS) if token != moved]
        torch.testing.assert_close(mine.log_softmax(-1)[..., moved], theirs.log_softmax(-1)[..., 0])
        assert mine.softmax(-1)[..., silent].max() < 1e-9


@torch.no_grad()
def test_its_hypotheses_are_the_stock_ones(published: Published, opened: Recogniser) -> None:
    stock, model = published.stock, opened.model
    searched = {"min_decode_ratio": 0.0, "max_decode_ratio": 1.0}
    theirs = S2SRNNGreedySearcher(stock["emb"], stock["dec"], stock["seq_lin"], bos_index=0, eos_index=0, **searched)
    mine = S2SRNNGreedySearcher(
        model.embedding, model.decoder, model.decoder_head, bos_index=BOS, eos_index=EOS, **searched
    )
    seen = set()
    for seed in range(4):
        sounds = torch.randn(1, 10, 16, generator=torch.Generator().manual_seed(seed)) * 10 - 20
        features = sounds.repeat_interleave(20, dim=1)
        states = stock["enc"](stock["normalizer"](features))
        hypothesis = [int(token) for token in theirs(states, torch.ones(1))[0][0]]
        assert [int(token) - 2 for token in mine(states, torch.ones(1))[0][0]] == hypothesis
        path = stock["ctc_lin"](states)[0].argmax(-1)
        # What follows an utterance is silence to us and a mirror image to SpeechBrain: its end may sound different,
        # and the LSTM that comes from there remembers it for a while.
        counts = torch.tensor([features.shape[1]])
        ours = model.ctc_log_probs(model.encode(batch_of(features, counts))[0])[0, : len(path)].argmax(-1)
        ours = torch.where(ours == BLANK, 0, ours - 2)
        assert ours[:-12].unique_consecutive().tolist() == path[:-12].unique_consecutive().tolist()
        seen |= {tuple(hypothesis), tuple(path.tolist())}
        joint = decode(model, batch_of(features, counts), Decoder.beam, EvaluationConfig(beam_size=4))[0]
        assert joint and min(map(int, joint)) > EOS
    assert len(seen) >= 6 and any(len(set(tokens)) > 2 for tokens in seen)


def batch_of(features: torch.Tensor, counts: torch.Tensor) -> Batch:
    nothing = torch.zeros(len(counts), 0, dtype=torch.int64)
    return Batch((), features, counts, nothing, torch.zeros_like(counts))


@pytest.mark.parametrize(("kind", "size"), [("unigram", 24), ("bpe", 20), ("char", 17)])
def test_a_wider_vocabulary_cuts_text_in_the_same_places(kind: str, size: int) -> None:
    proto = train_sentencepiece(kind, size)
    before, after = Tokenizer(proto), Tokenizer(widen_tokenizer(proto, Path("tokenizer.ckpt")))
    assert len(after) == len(before) + 2
    assert (after.processor.unk_id(), after.processor.bos_id(), after.processor.eos_id()) == (BLANK, BOS, EOS)
    assert after.processor.is_control(BOS) and after.processor.is_control(EOS)
    for text in (*TEXTS, "ba du </s> <s>", "su\u00e9ti"):
        shifted = [token + 2 if token else 0 for token in before.encode(text)]
        assert after.encode(text) == shifted
    assert all(after.decode(after.encode(text)) == text for text in TEXTS)


def test_the_rest_of_the_folder(
    published: Published, opened: Recogniser, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert {name: vars(opened.model_config)[name] for name in GEOMETRY} == GEOMETRY
    assert (opened.features.n_mels, opened.features.win_ms, opened.features.subtract_mean) == (16, 25, False)
    assert len(opened.tokenizer) == len(Tokenizer(published.tokenizer)) + 2
    open_recogniser(published.folder)
    assert "no 'lm'" in caplog.text
    trap = copy(published.folder, tmp_path / "trap")
    command = f"boo: !apply:os.system ['touch {tmp_path}/ran']\nbaa: !!python/object/apply:os.getcwd []\n"
    (trap / "hyperparams.yaml").write_text(command + (trap / "hyperparams.yaml").read_text())
    open_recogniser(trap)
    assert not (tmp_path / "ran").exists(), "opening runs nothing"


def test_what_asr_fed_exported_comes_back_bit_by_bit(tmp_path: Path) -> None:
    recogniser = tiny_recogniser(cnn_kernel=[3, 5], time_pooling=2)
    recogniser = replace(recogniser, features=replace(recogniser.features, subtract_mean=True, mean_gate_db=17.5))
    recogniser.model.feature_mean.normal_()
    recogniser.model.feature_deviation.uniform_(1, 2)
    export_recogniser(recogniser, tmp_path / "folder", Decoder.beam)
    back = open_recogniser(tmp_path / "folder")
    assert (back.model_config, back.features) == (recogniser.model_config, recogniser.features)
    assert back.tokenizer.sha256 == recogniser.tokenizer.sha256
    ours, theirs = recogniser.model.state_dict(), back.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_what_version_0_1_exported_hears_as_it_did(tmp_path: Path) -> None:
    recogniser = tiny_recogniser()
    recogniser = replace(recogniser, features=replace(recogniser.features, subtract_mean=True))
    export_recogniser(recogniser, tmp_path / "folder")
    rewrite("mean_gate_db: 15.0\n", "")(tmp_path / "folder")
    rewrite("    mean_gate_db: !ref <mean_gate_db>\n", "")(tmp_path / "folder")
    assert open_recogniser(tmp_path / "folder").features == replace(recogniser.features, mean_gate_db=None)


def copy(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def rewrite(old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / "hyperparams.yaml").read_text()
        assert old in text
        (folder / "hyperparams.yaml").write_text(text.replace(old, new))

    return change


def retensor(edit: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        weights = torch.load(folder / "asr.ckpt")
        edit(weights)
        torch.save(weights, folder / "asr.ckpt")

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rewrite("norm_type: global", "norm_type: sentence"), "norm_type of InputNormalization is sentence"),
        (rewrite("RNN.LSTM", "RNN.LiGRU"), "rnn_class of CRDNN is LiGRU"),
        (rewrite("(2, 2, 2)", "(2, 2, 4)"), "inter_layer_pooling_size"),
        (rewrite("eos_index: 0", "eos_index: 3"), r"tokens \(0, 0, 3\)"),
        (rewrite("CRDNN.CRDNN", "CNN.Transformer"), "has no CRDNN"),
        (rewrite("dropout: !ref <dropout>", "dropout: !ref <droput>"), "<droput> leads nowhere"),
        (rewrite("sample_rate: 16000", "sample_rate: [16000"), "cannot be read"),
        (lambda folder: (folder / "normalizer.ckpt").unlink(), r"normalizer\.ckpt cannot be read"),
        (lambda folder: torch.save({"count": 0}, folder / "normalizer.ckpt"), "one mean and deviation per band"),
        (lambda folder: (folder / "tokenizer.ckpt").write_bytes(b"no model"), r"tokenizer\.ckpt is not a Sent"),
        (lambda folder: (folder / "asr.ckpt").write_bytes(b"no tensors"), r"asr\.ckpt cannot be read"),
        (retensor(lambda w: w.pop("2.attn.mlp_enc.weight")), r"has no tensor 2\.attn\.mlp_enc\.weight"),
        (
            retensor(lambda w: w.pop("0.RNN.rnn.bias_hh_l1")),
            r"encoder\.crdnn\.RNN\.rnn\.bias_hh_l1: missing in the folder, \(32,\) in asr_fed",
        ),
        (
            retensor(lambda w: w.update({"5.w.bias": torch.zeros(3)})),
            r"5\.w\.bias: \(3,\) in the folder, missing in asr_fed",
        ),
        (
            retensor(lambda w: w.update({"0.CNN.block_0.norm_1.norm.weight": torch.zeros(40, 4)})),
            r"norm_1\.norm\.weight: \(40, 4\) in the folder, \(16, 4\) in asr_fed.* features\.n_mels=16 .*"
            r"model\.cnn_channels=\[4,5,6\]",
        ),
    ],
)
def test_what_does_not_fit_is_named(
    published: Published, tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    folder = copy(published.folder, tmp_path / "folder")
    change(folder)
    with pytest.raises(UserError, match=message) as refusal:
        open_recogniser(folder)
    assert str(folder) in str(refusal.value)


def test_training_goes_on_from_it(published: Published, corpus: Corpus, prepared: Path, tmp_path: Path) -> None:
    content = settings(corpus, prepared, tmp_path / "run")
    content["model"] = GEOMETRY
    content["mode"] = "central"
    content["central"] = {"start": "warm_start", "epochs": 1, "lr": 0.001}
    summary = train(typed_config(content, f"warm_start.checkpoint={published.folder}"))
    begun, ended = (
        open_recogniser(tmp_path / "run" / "checkpoints" / "warm_start.pt"),
        open_recogniser(tmp_path / "run"),
    )
    assert summary.tokenizer_sha256 == begun.tokenizer.sha256 == ended.tokenizer.sha256
    expected = open_recogniser(published.folder).model.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in begun.model.state_dict().items())
    assert not torch.equal(ended.model.embedding.Embedding.weight, begun.model.embedding.Embedding.weight)
    assert all(tensor.isfinite().all() for tensor in ended.model.state_dict().values())


def test_another_model_in_the_config_is_refused_with_what_fits(
    published: Published, corpus: Corpus, prepared: Path, tmp_path: Path
) -> None:
    content = settings(corpus, prepared, tmp_path / "run")
    content["model"] = GEOMETRY | {"cnn_channels": [4, 5], "rnn_layers": 3}
    config = typed_config(content, f"warm_start.checkpoint={published.folder}")
    with pytest.raises(UserError, match=r"needs model\.cnn_channels=\[4,5,6\] model\.rnn_layers=2\.$"):
        prepare_experiment(config)


def test_warm_start_on_the_command_line_is_a_model_and_not_a_group() -> None:
    words = hydra_arguments(["hparams/an4.yaml", "warm_start=some/folder", "warm_start.epochs=3"])
    assert "warm_start.checkpoint=some/folder" in words and "warm_start.epochs=3" in words
    assert "warm_start=some/folder" not in words
