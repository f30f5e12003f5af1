"""Exported folders of encoders that others have trained: transformers, alone, writes what our CTC decoder writes."""

from pathlib import Path

import pytest
import soundfile
import torch
from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer

from asr_fed.commands.export import main
from asr_fed.config.schema import Decoder, EncoderKind, FeatureConfig, FeatureKind, FederationConfig, Tune
from asr_fed.interop.huggingface import read_encoder
from asr_fed.interop.huggingface_writer import export_to_huggingface
from asr_fed.interop.open_recogniser import open_recogniser
from asr_fed.model.recogniser import Recogniser, save_recogniser
from asr_fed.model.state import read_state
from asr_fed.model.tuning import train_only
from asr_fed.system.errors import UserError
from asr_fed.transcribe.transcript import transcribe
from tests.encoders import write_encoder
from tests.tiny import tiny_model_config, tiny_tokenizer


def talkative(folder: Path, name: str, **changes: object) -> Recogniser:
    """Random weights, the head's larger than usual, so that hypotheses are long and differ; LoRA on top of them."""
    config = tiny_model_config(
        encoder=EncoderKind.pretrained, pretrained=read_encoder(write_encoder(folder, name)), **changes
    )
    torch.manual_seed(5)
    made = Recogniser.create(config, FeatureConfig(kind=FeatureKind.waveform), tiny_tokenizer())
    train_only(made.model, FederationConfig(tune=Tune.lora, lora_rank=2))
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter) * parameter.requires_grad)
    return made


@pytest.mark.parametrize("name", ["wav2vec2 base", "wavlm", "data2vec"])
def test_transformers_and_asr_fed_write_the_same_from_the_folder(name: str, tmp_path: Path) -> None:
    recogniser = talkative(tmp_path / "encoder", name)
    save_recogniser(recogniser, tmp_path / "tuned.pt")
    assert main([str(tmp_path / "tuned.pt"), str(tmp_path / "out")]) == 0
    texts = set()
    for number in range(3):
        torch.manual_seed(number)
        samples = (0.3 * torch.randn(16000 + 999 * number)).half().float().numpy()  # as the cache keeps them
        soundfile.write(tmp_path / "speech.wav", samples, 16000, subtype="FLOAT")
        expected = transcribe(recogniser, tmp_path / "speech.wav", decoder=Decoder.ctc_greedy).text
        ours = transcribe(open_recogniser(tmp_path / "out"), tmp_path / "speech.wav", decoder=Decoder.ctc_greedy).text
        inputs = AutoFeatureExtractor.from_pretrained(tmp_path / "out")(
            samples, sampling_rate=16000, return_tensors="pt"
        )
        with torch.no_grad():
            tokens = AutoModelForCTC.from_pretrained(tmp_path / "out")(inputs.input_values).logits.argmax(-1)
        theirs = AutoTokenizer.from_pretrained(tmp_path / "out").decode(tokens[0]).replace("|", " ")
        assert expected == ours == " ".join(theirs.replace("<s>", "").replace("</s>", "").split())
        texts.add(expected)
    assert len(texts) == 3
    assert "lora" not in " ".join(path.name for path in (tmp_path / "out").iterdir())


def test_the_folder_is_a_whole_recogniser_and_an_encoder_to_start_from(tmp_path: Path) -> None:
    recogniser = talkative(tmp_path / "encoder", "hubert")
    export_to_huggingface(recogniser, tmp_path / "out")
    save_recogniser(recogniser, tmp_path / "merged.pt")
    opened, merged = open_recogniser(tmp_path / "out"), open_recogniser(tmp_path / "merged.pt")
    assert read_state(opened.model).tobytes() == read_state(merged.model).tobytes()
    assert read_encoder(tmp_path / "out") == recogniser.model_config.pretrained
    with pytest.raises(UserError, match="is there already"):
        export_to_huggingface(recogniser, tmp_path / "out")


@pytest.mark.parametrize(("name", "adapters", "what"), [("whisper", 0, "Whisper's"), ("hubert", 2, "adapters")])
def test_what_transformers_has_no_model_for_is_refused(name: str, adapters: int, what: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"no CTC model with {what}"):
        export_to_huggingface(talkative(tmp_path / "encoder", name, adapters=adapters), tmp_path / "out")
    assert not (tmp_path / "out").exists()
