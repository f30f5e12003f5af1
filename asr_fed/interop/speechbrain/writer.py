"""A recogniser as a folder that SpeechBrain opens without asr_fed: `python -m asr_fed.export` does it.

The folder has the files of the CRDNN recognisers that SpeechBrain publishes. Its hyperparams.yaml contains Python
source for the parts that SpeechBrain computes differently (see `asr_fed.model.encoder`), because SpeechBrain's
`from_hparams` loads no other source.
"""

import hashlib
import inspect
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from torch import nn

from asr_fed import __version__
from asr_fed.config.schema import Decoder, EvaluationConfig
from asr_fed.data import log_mel
from asr_fed.data.tokenizer import BLANK, BOS, EOS, save_tokenizer
from asr_fed.interop.speechbrain import interface
from asr_fed.model import beam, encoder
from asr_fed.model.decoding import TOKENS_PER_FRAME
from asr_fed.model.recogniser import Recogniser
from asr_fed.system.checkpoint import save_checkpoint
from asr_fed.system.errors import UserError
from asr_fed.system.files import make_folder, write_text

FIXED = 10**9  # frame count of the normaliser's statistics: so large that training in SpeechBrain does not change them


def export_recogniser(
    recogniser: Recogniser,
    folder: Path,
    decoder: Decoder = Decoder.ctc_greedy,
    evaluation: EvaluationConfig | None = None,
    summary: dict[str, Any] | None = None,
) -> None:
    """Write the folder. hyperparams.yaml is written last, so an incomplete folder cannot be opened.

    Args:
        evaluation: settings of the beam search.
        summary: of the run that made the recogniser, for the README.

    Raises UserError where `folder` is something already, and for an encoder that is no CRDNN.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} is there already, and not empty. Give a new folder, or remove it first.")
    model = recogniser.model
    if not isinstance(model.encoder, encoder.Encoder):
        raise UserError(
            f"A SpeechBrain folder holds a CRDNN, and this recogniser has a {recogniser.model_config.encoder.name}: "
            "it is opened by asr_fed alone (python -m asr_fed.transcribe RUN_OR_CHECKPOINT AUDIO)."
        )
    make_folder(folder)
    parts = nn.ModuleList([model.encoder.crdnn, model.embedding, model.decoder, model.ctc_head, model.decoder_head])
    save_checkpoint({name: tensor.cpu() for name, tensor in parts.state_dict().items()}, folder / "asr.ckpt")
    statistics = {"count": FIXED, "glob_mean": model.feature_mean.cpu(), "glob_std": model.feature_deviation.cpu()}
    save_checkpoint(statistics, folder / "normalizer.ckpt")
    save_tokenizer(recogniser.tokenizer, folder / "tokenizer.ckpt")
    texts = folder_texts(recogniser, decoder, evaluation or EvaluationConfig(), summary)
    for name in ("README.md", "hyperparams.yaml"):
        write_text(folder / name, texts[name])


def folder_texts(
    recogniser: Recogniser, decoder: Decoder, evaluation: EvaluationConfig, summary: dict[str, Any] | None
) -> dict[str, str]:
    """README.md and hyperparams.yaml of the folder."""
    source = carried_source()
    values = {
        "features": recogniser.features,
        "model": recogniser.model_config,
        "vocabulary": len(recogniser.tokenizer),
        "parameters": sum(parameter.numel() for parameter in recogniser.model.parameters()),
        "decoder": decoder,
        "evaluation": evaluation,
        "summary": summary,
        "version": __version__,
        "source": source,
        # Python keeps modules by name: the folders of two versions of asr_fed must not share one.
        "module": f"asr_fed_{hashlib.sha256(source.encode()).hexdigest()[:12]}",
        **{"BLANK": BLANK, "BOS": BOS, "EOS": EOS, "TOKENS_PER_FRAME": TOKENS_PER_FRAME},
    }
    templates = Environment(  # noqa: S701  # it writes YAML and Markdown
        loader=PackageLoader("asr_fed", "interop/speechbrain"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return {name: templates.get_template(f"{name}.jinja").render(values) for name in ("README.md", "hyperparams.yaml")}


def carried_source() -> str:
    """Python source that needs only SpeechBrain: our encoder, and the modules that SpeechBrain's interface expects."""
    return "\n\n".join(inspect.getsource(module) for module in (log_mel, encoder, beam, interface))
