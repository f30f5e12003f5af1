"""A recogniser with a pretrained encoder as a folder that transformers opens without asr_fed, and asr_fed opens whole.

transformers finds the encoder with the CTC head (`AutoModelForCTC`), what to do with samples, and the tokens. What it
has no place for, the attention decoder, is with all else in recogniser.pt, which asr_fed reads.
"""

import json
from pathlib import Path
from typing import Any

import torch

from asr_fed.config.pretrained import ConvNorm
from asr_fed.data.tokenizer import BLANK, BOS, EOS, Tokenizer
from asr_fed.interop.huggingface import be_quiet
from asr_fed.model.pretrained import PREFIX, SampleEncoder, WhisperEncoder, transformers_config
from asr_fed.model.recogniser import Recogniser, save_recogniser
from asr_fed.model.tuning import merged_state
from asr_fed.system.errors import UserError
from asr_fed.system.files import make_folder, write_text

RECOGNISER = "recogniser.pt"
WORD_MARK, DELIMITER = "▁", "|"  # before the first letter of a word: SentencePiece's, and transformers'
README = """\
# A speech recogniser, trained with asr_fed

```python
import soundfile, torch
from transformers import AutoFeatureExtractor, AutoModelForCTC, AutoTokenizer

folder = "."
samples, rate = soundfile.read("speech.wav", dtype="float32")  # mono, {rate} Hz
inputs = AutoFeatureExtractor.from_pretrained(folder)(samples, sampling_rate=rate, return_tensors="pt")
with torch.no_grad():
    tokens = AutoModelForCTC.from_pretrained(folder)(inputs.input_values).logits.argmax(-1)
print(AutoTokenizer.from_pretrained(folder).decode(tokens[0]).replace("|", " ").strip())
```

Give one recording at a time: in a batch, transformers lets some encoders hear the padding. `python -m
asr_fed.transcribe FOLDER AUDIO` reads `{recogniser}`, which has the attention decoder, too.
"""


def export_to_huggingface(recogniser: Recogniser, folder: Path) -> None:
    """Write the folder; LoRA is merged. README.md is written last.

    Raises UserError where `folder` is something already, and for what transformers has no CTC model for: Whisper's
    encoder, and adapters.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} is there already, and not empty. Give a new folder, or remove it first.")
    encoder = recogniser.model.encoder
    other = recogniser.model_config.adapters or not isinstance(encoder, SampleEncoder)
    if other:
        what = "Whisper's encoder" if isinstance(encoder, WhisperEncoder) else "adapters"
        raise UserError(
            f"transformers has no CTC model with {what}: this recogniser is opened by asr_fed alone (python -m "
            "asr_fed.transcribe RUN_OR_CHECKPOINT AUDIO)."
        )
    assert isinstance(encoder, SampleEncoder)
    model = _with_head(recogniser, encoder)
    be_quiet()
    make_folder(folder)
    save_recogniser(recogniser, folder / RECOGNISER)
    model.save_pretrained(str(folder))
    told = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor",
        "feature_size": 1,
        "sampling_rate": encoder.shape.sampling_rate,
        "padding_value": 0.0,
        "do_normalize": encoder.shape.do_normalize,
        "return_attention_mask": encoder.shape.feat_extract_norm is ConvNorm.layer,
    }
    write_text(folder / "preprocessor_config.json", json.dumps(told, indent=2))
    write_text(folder / "vocab.json", json.dumps(vocabulary(recogniser.tokenizer), ensure_ascii=False, indent=0))
    special = {"pad_token": "<pad>", "unk_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    tokens = {"tokenizer_class": "Wav2Vec2CTCTokenizer", "word_delimiter_token": DELIMITER, **special}
    write_text(folder / "tokenizer_config.json", json.dumps(tokens, indent=2))
    rate = encoder.shape.sampling_rate
    write_text(folder / "README.md", README.format(rate=rate, recogniser=RECOGNISER))


def vocabulary(tokenizer: Tokenizer) -> dict[str, int]:
    """Each piece with its number, as transformers writes it."""
    special = {BLANK: "<pad>", BOS: "<s>", EOS: "</s>"}
    pieces = (tokenizer.processor.id_to_piece(number) for number in range(len(tokenizer)))
    return {special.get(n, piece.replace(WORD_MARK, DELIMITER)): n for n, piece in enumerate(pieces)}


def _with_head(recogniser: Recogniser, encoder: SampleEncoder) -> Any:
    import transformers

    config = transformers_config(encoder.shape)
    config.vocab_size, config.pad_token_id = len(recogniser.tokenizer), BLANK
    config.bos_token_id, config.eos_token_id = BOS, EOS
    model = getattr(transformers, f"{PREFIX[encoder.shape.model_type]}ForCTC")(config)
    model.base_model.load_state_dict(merged_state(encoder.transformer))
    head = recogniser.model.ctc_head.w
    with torch.no_grad():
        model.lm_head.weight.copy_(head.weight)
        model.lm_head.bias.copy_(head.bias)
    return model.eval()
