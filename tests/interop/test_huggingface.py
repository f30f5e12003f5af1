"""Folders in Hugging Face format: read as data, in whatever shape they are published, or refused in words."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from asr_fed.config.check import check_shared
from asr_fed.config.pretrained import ConvNorm, PretrainedKind
from asr_fed.federation.shared_config import shared_config
from asr_fed.interop import huggingface
from asr_fed.interop.huggingface import load_encoder, read_encoder
from asr_fed.model.pretrained import create_pretrained
from asr_fed.pipeline.train import train
from asr_fed.system.errors import UserError
from tests.encoders import KINDS, TRAINED, pretrained_experiment, stock, write_encoder
from tests.tiny import Corpus, settings, typed_config

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def change_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, metadata={"format": "pt"})


@pytest.mark.parametrize("name", KINDS)
def test_the_shape_is_the_folders(name: str, tmp_path: Path) -> None:
    shape = read_encoder(write_encoder(tmp_path, name, do_normalize=False))
    assert shape.model_type is PretrainedKind[KINDS[name][0]]
    assert (shape.hidden_size, shape.num_hidden_layers, shape.intermediate_size) == (16, 2, 24)
    assert not shape.do_normalize and shape.sampling_rate == 16000
    if name == "wavlm large":
        assert shape.feat_extract_norm is ConvNorm.layer and shape.do_stable_layer_norm and shape.num_buckets == 8
    encoder = create_pretrained(shape)
    total = sum(parameter.numel() for parameter in encoder.parameters())
    assert 0.5 * total < shape.parameters < total, "the check of the files' size needs no more than there are"


def test_an_encoder_with_a_head_under_old_names_in_half_precision_is_read(tmp_path: Path) -> None:
    """As most of those on the Hub are: saved by earlier versions, from a model with a head."""
    write_encoder(tmp_path)

    def published(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        names = (("parametrizations.weight.original0", "weight_g"), ("parametrizations.weight.original1", "weight_v"))
        old = {}
        for name, tensor in weights.items():
            for new, before in names:
                name = name.replace(new, before)
            old[f"wav2vec2.{name}"] = tensor.half()
        return old | {"lm_head.weight": torch.zeros(30, 16)}

    change_weights(tmp_path, published)
    encoder = create_pretrained(read_encoder(tmp_path))
    load_encoder(encoder, tmp_path)
    for name, tensor in stock("wav2vec2 base").state_dict().items():
        if name != "masked_spec_embed":
            found = encoder.transformer.state_dict()[name]
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, tensor, atol=1e-3, rtol=1e-3)


def says(**changes: object) -> Callable[[Path], object]:
    return lambda folder: change_json(folder / "config.json", **changes)


def hears(**changes: object) -> Callable[[Path], object]:
    return lambda folder: change_json(folder / "preprocessor_config.json", **changes)


def a_file(name: str, content: bytes = b"") -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def pickled(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def sharded(name: object) -> Callable[[Path], object]:
    """The weights in two files with their index, which names one of the two so."""

    def change(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        place = {key: f"part-{number % 2}.safetensors" for number, key in enumerate(weights)}
        for part in set(place.values()):
            own = {key: tensor for key, tensor in weights.items() if place[key] == part}
            save_file(own, folder / part, metadata={"format": "pt"})
        torch.save({key: weights[key] for key in weights if place[key] == "part-1.safetensors"}, folder / "evil.bin")
        told = {key: name if part == "part-1.safetensors" else part for key, part in place.items()}
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": told}))

    return change


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda folder: (folder / "config.json").unlink(), r"has no config\.json"),
    "code": (a_file("modeling_mine.py"), r"carries code \(modeling_mine\.py\)"),
    "code below": (lambda f: ((f / "sub").mkdir(), (f / "sub" / "a.py").touch()), r"carries code \(sub/a\.py\)"),
    "code named": (
        says(auto_map={"AutoModel": "other/repo--modeling.Model"}),
        r"names code to be run \(auto_map\)",
    ),
    "code named by the preprocessor": (
        hears(auto_map={}),
        r"preprocessor_config\.json names code",
    ),
    "pickled weights alone": (pickled, r"are pickled \(pytorch_model\.bin\).*docs/pretrained_encoders\.md"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "no model.safetensors"),
    "weights under another name": (lambda f: (f / WEIGHTS).rename(f / "mine.safetensors"), "no model.safetensors"),
    "a pickle in the index": (sharded("evil.bin"), r"index\.json names 'evil\.bin'.*end in \.safetensors"),
    "a file elsewhere in the index": (sharded("../part-1.safetensors"), r"names '\.\./part-1.*beside it"),
    "no name in the index": (sharded(["part-1.safetensors"]), r"index\.json names \['part"),
    "a part that is missing": (sharded("part-2.safetensors"), "part of its weights.*part-2.safetensors, which is miss"),
    "an index of nothing": (
        lambda folder: (sharded("part-1.safetensors")(folder), change_json(folder / INDEX, weight_map=[])),
        r"index\.json is malformed: it has no weight_map",
    ),
    "adapters": (a_file("adapter_config.json", b"{}"), "adapters of peft"),
    "no preprocessor": (
        lambda folder: (folder / "preprocessor_config.json").unlink(),
        r"^(?!.*malformed).* has no preprocessor_config\.json",
    ),
    "a feature extractor that is none": (
        hears(feature_extractor=None),
        r"preprocessor_config\.json is malformed: its feature_extractor",
    ),
    "a feature extractor that is a text": (
        hears(feature_extractor="Wav2Vec2FeatureExtractor"),
        r"preprocessor_config\.json is malformed: its feature_extractor",
    ),
    "normalisation that is neither": (hears(do_normalize="x"), r"preprocessor_config\.json is malformed.*'x'"),
    "a rate that is none": (hears(sampling_rate=[]), r"preprocessor_config\.json is malformed.*sampling_rate=\[\]"),
    "no JSON": (a_file("config.json", b"{"), r"config\.json cannot be read"),
    "a list": (a_file("config.json", b"[]"), "holds no settings"),
    "another model": (says(model_type="bert"), "is of a bert.*wav2vec2"),
    "a misspelt model": (says(model_type="wav2vec"), "Did you mean 'wav2vec2'"),
    "a kind that is no text": (says(model_type=["x"]), "Encoders of asr_fed are"),
    "a number that is none": (
        says(hidden_size="many"),
        "is malformed.*hidden_size",
    ),
    "a size beyond all": (says(hidden_size=10**9), "hidden_size"),
    "an unknown function": (says(hidden_act="mine"), "is malformed.*(hidden_act|mine)"),
    "heads that do not divide": (
        says(num_attention_heads=3),
        "multiple of num_att",
    ),
    "lists of two lengths": (
        says(conv_kernel=[3, 3]),
        "malformed|differ in length",
    ),
    "a further adapter": (
        says(add_adapter=True),
        "add_adapter=True, which asr_fed",
    ),
    "weights that are none": (a_file(WEIGHTS, b"nonsense" * 9999), "cannot be read"),
    "weights of another size": (
        says(intermediate_size=32),
        r"not those of its config\.json: 6 tensors are missing or of another size \(encoder\.layers\.0",
    ),
    "weights of fewer layers": (
        says(num_hidden_layers=3),
        "16 tensors are missing",
    ),
    "weights that are not finite": (
        lambda folder: change_weights(folder, lambda weights: {k: v * torch.nan for k, v in weights.items()}),
        "are not finite",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_what_cannot_be_trusted_or_does_not_fit_is_refused_in_words(fault: str, tmp_path: Path) -> None:
    spoil, told = BAD[fault]
    spoil(write_encoder(tmp_path))
    with pytest.raises(UserError, match=told):
        read_encoder(tmp_path)


@pytest.mark.parametrize("name", KINDS)
def test_a_shape_too_large_for_its_weights_is_refused_before_it_is_built(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each size is within its range, and together they are 100 G parameters."""
    write_encoder(tmp_path, name)
    most: dict[str, object] = {"hidden_size": 8192, "num_hidden_layers": 128, "intermediate_size": 32_768}
    if name == "whisper":
        most = {"d_model": 8192, "encoder_layers": 128, "encoder_ffn_dim": 32_768}
    change_json(tmp_path / "config.json", **most)
    monkeypatch.setattr(huggingface, "create_pretrained", lambda shape: pytest.fail("built"))
    with pytest.raises(UserError, match=r"an encoder of 1\d\d,[\d,]+ parameters or more: [\d,]+ bytes cannot hold"):
        read_encoder(tmp_path)


@pytest.mark.parametrize(
    ("name", "changes", "more"),
    [
        *((name, {"num_hidden_layers": 1}, r"layers\.1\.") for name in KINDS if name != "whisper"),
        ("whisper", {"encoder_layers": 1}, r"layers\.1\."),
        ("wav2vec2 large", {"feat_extract_norm": "group"}, r"conv_layers\.1\.layer_norm\.bias"),
        ("wav2vec2 large", {"conv_bias": False}, r"conv_layers\.0\.conv\.bias"),
    ],
)
@pytest.mark.parametrize("prefix", [False, True])
def test_more_weights_than_the_config_has_are_refused(
    name: str, changes: dict[str, object], more: str, prefix: bool, tmp_path: Path
) -> None:
    """Else part of an encoder would be trained, and nobody told. A prefix is what a model with a head is saved with."""
    write_encoder(tmp_path, name)
    if prefix:
        before = {"data2vec": "data2vec_audio", "whisper": "model"}.get(name, name.split()[0])
        change_weights(tmp_path, lambda weights: {f"{before}.{key}": tensor for key, tensor in weights.items()})
        read_encoder(tmp_path)
    change_json(tmp_path / "config.json", **changes)
    with pytest.raises(UserError, match=rf"not those of its config\.json: \d+ tensors of its encoder .*{more}"):
        read_encoder(tmp_path)


def test_weights_in_several_files_are_read(tmp_path: Path) -> None:
    sharded("part-1.safetensors")(write_encoder(tmp_path))
    encoder = create_pretrained(read_encoder(tmp_path))
    load_encoder(encoder, tmp_path)
    expected = stock("wav2vec2 base").state_dict()
    assert all(tensor.equal(expected[name]) for name, tensor in encoder.transformer.state_dict().items())


def test_a_run_is_refused_before_any_work(corpus: Corpus, tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "encoder")
    (folder / "modeling.py").touch()
    config = typed_config(settings(corpus, tmp_path / "prepared", tmp_path / "run"), *TRAINED, f"model.folder={folder}")
    with pytest.raises(UserError, match="carries code"):
        train(config)
    assert not (tmp_path / "run").exists() and not (tmp_path / "prepared").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["model.encoder=pretrained", "features.kind=waveform"], "needs model.folder"),
        (["model.encoder=pretrained", "model.folder=x"], "reads waveforms: set features.kind=waveform"),
        ([*TRAINED, "model.folder=x", "augment.warp_frames=5"], "augment.warp_frames=5"),
        ([*TRAINED, "model.folder=x", "task.kind=best_rq"], "best_rq trains encoders of log-mel frames"),
        ([*TRAINED, "model.pretrained.sampling_rate=8000"], "features.sample_rate=8000"),
        ([*TRAINED, "model.pretrained.hidden_size=9000"], "hidden_size=9000 is not possible"),
        ([*TRAINED, "model.pretrained.num_attention_heads=7"], "model.pretrained: hidden_size=768 is no multiple"),
    ],
)
def test_a_config_that_contradicts_itself_is_refused(changes: list[str], told: str) -> None:
    with pytest.raises(UserError, match=told):
        check_shared(OmegaConf.structured(typed_config({}, "augment.pauses=0.0", *changes)))


def test_a_node_is_told_the_shape_and_no_path(corpus: Corpus, prepared: Path, tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "encoder")
    experiment = pretrained_experiment(corpus, prepared, tmp_path / "run", folder)
    told = OmegaConf.create(shared_config(experiment).config)
    assert told.model.folder is None and told.model.pretrained.hidden_size == 16
    assert str(tmp_path) not in shared_config(experiment).config
