"""The demo corpus: French sentences from a small grammar, spoken by espeak-ng, offline and in seconds.

    python -m asr_fed.data_prep.synthetic data/synthetic data/synthetic/manifest.csv --speakers 40 --sentences 25

Each corpus has its own folder under `root`, named after its parameters:

    root/fr-40x25-1f0c9a2b/clips/train-000/train-000-00.flac ...   16 kHz, 16 bits
                           utterances.csv    a manifest with relative paths
                           speakers.csv      how each speaker was made
                           parameters.json   written for people

A folder of that name is a finished corpus: it is built under another name and renamed at the end.
"""

import dataclasses
import itertools
import json
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from asr_fed.data.manifest import Utterance, read_manifest, write_manifest
from asr_fed.data_prep.espeak import Espeak
from asr_fed.data_prep.synthetic_folder import digest, made_once, run_generator
from asr_fed.data_prep.synthetic_speakers import Speaker, draw_speakers, record, say, write_clip
from asr_fed.system.errors import UserError
from asr_fed.system.files import write_csv

LOCALE = "fr"
GENERATOR = ("synthetic.py", "synthetic_speakers.py", "espeak.py")  # files that determine how a corpus sounds

_WHO = (
    "marie|paul|hélène|louis|julie|thomas|antoine|claire|mon père|ma fille|ma tante|son oncle|sa nièce|le voisin|"
    "la boulangère|le facteur|le médecin|la directrice|notre cousine|mon frère"
)
_FOOD = (
    "une pomme|un gâteau|du pain|trois tomates|deux citrons|du fromage|une salade|des cerises|un poulet|du beurre|"
    "six bananes|du poisson|une tarte|des haricots"
)
_PLACE = "|du salon|du bureau|de l'entrée|de la cuisine|de la chambre|du couloir"
_DAY = "|demain|lundi|jeudi|samedi|ce matin|cette nuit"
_THING = (
    "le chat|le chien|l'arbre|l'école|la voiture|la maison|le jardin|ta chemise|mon vélo|la rivière|le gâteau|"
    "son manteau|cette lampe|le village"
)
_NUMBERS = "deux|trois|quatre|cinq|six|sept|huit|neuf|dix|onze|douze|treize|quinze|seize|vingt"
# One line per kind of sentence: slots with alternatives; an empty alternative omits the slot.
GRAMMAR = (
    ("ouvre|ferme|nettoie|répare", "la porte|la fenêtre|le placard|le garage|le tiroir|les volets", _PLACE, _DAY),
    ("allume|éteins|débranche|règle", "la lampe|la télé|le four|l'écran|la radio|le chauffage", _PLACE, _DAY),
    ("choisis|écris|invente|raconte", "une histoire|une carte|une recette|un poème", "avec|pour", _WHO),
    (_WHO, "achètera|mangera|préparera|cherchera|vendra|oubliera", _FOOD, "|demain|samedi"),
    (_WHO, "ira|courra|arrivera", "au marché|au bureau|à l'école|à la gare|à la plage|chez le coiffeur", _DAY),
    (_WHO, "partira|reviendra|téléphonera", "avant|après|vers", _NUMBERS, "heures"),
    ("il est|il sera", "|presque|déjà", _NUMBERS, "heures", "|dix|vingt|trente|quarante|et demie|et quart"),
    (
        _THING,
        "est|semble|reste|devient",
        "|très|trop",
        "calme|jeune|triste|rouge|jaune|propre|énorme|vide|lourd|fragile",
    ),
    (
        "je cherche|je voudrais|nous avons|il manque",
        _NUMBERS,
        "chaises|assiettes|billets|timbres|cahiers|chaussettes|clés",
    ),
)
EVALUATION_SHARE = 0.15  # of the grammar's sentences are for test, and as many for dev


def sentences() -> list[str]:
    """Every sentence of the grammar once, in lower case, with single spaces between words."""
    found = {
        " ".join(" ".join(choice).split())
        for slots in GRAMMAR
        for choice in itertools.product(*(slot.split("|") for slot in slots))
    }
    return sorted(found)


def sentence_pools(seed: int) -> dict[str, list[str]]:
    """The grammar's sentences dealt to train, dev and test: disjoint, each in random order."""
    everything = sentences()
    shuffled = [everything[index] for index in np.random.default_rng(seed).permutation(len(everything))]
    size = round(EVALUATION_SHARE * len(shuffled))
    return {"train": shuffled[2 * size :], "dev": shuffled[:size], "test": shuffled[size : 2 * size]}


def prepare(
    root: str,
    manifest: str,
    *,
    speakers: int = 40,
    sentences: int = 25,
    dev_speakers: int = 4,
    dev_sentences: int = 15,
    test_speakers: int = 6,
    test_sentences: int = 25,
    seed: int = 1,
) -> list[Utterance]:
    """Generate the corpus under `root` unless it is there already, write its manifest, and return it.

    `sentences` are per training speaker, `dev_sentences` and `test_sentences` per dev and test speaker. No sentence and
    no speaker is in two splits. The same parameters and the same espeakng-loader give the same samples.

    Raises UserError where espeak-ng is missing, a count is not positive (dev may have no speakers) or is
    more than voices or grammar can give, or generation is stopped from outside.
    """
    counts = {"train": speakers, "dev": dev_speakers, "test": test_speakers}
    lengths = {"train": sentences, "dev": dev_sentences, "test": test_sentences}
    if min(speakers, test_speakers, *lengths.values()) < 1 or min(dev_speakers, seed) < 0:
        raise UserError(
            f"speakers={counts}, sentences={lengths}, seed={seed}: speakers and sentences are at least 1, "
            "dev_speakers and seed at least 0."
        )
    for split, pool in sentence_pools(seed).items():
        if lengths[split] > len(pool):
            raise UserError(f"{lengths[split]} sentences per {split} speaker: the grammar has {len(pool)} for {split}.")
    voices = draw_speakers(counts, seed)

    parameters = {"speakers": counts, "sentences": lengths, "seed": seed}
    folder = Path(root) / f"{LOCALE}-{speakers}x{sentences}-{digest(parameters, GENERATOR)}"
    if not folder.is_dir():
        # A fresh process, because only there espeak-ng is repeatable; spawn, because a fork would inherit its state.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
            try:
                process.submit(_generate, folder, voices, lengths, seed, parameters).result()
            except BrokenProcessPool:
                raise UserError(
                    f"The generation of {folder} was killed from outside. Run it again: it starts from the beginning."
                ) from None
    utterances = read_manifest(folder / "utterances.csv")
    write_manifest(manifest, utterances)
    return utterances


def _generate(
    folder: Path, speakers: list[Speaker], lengths: dict[str, int], seed: int, parameters: dict[str, object]
) -> None:
    """Write the corpus to `folder`, whole or not at all."""
    with made_once(folder) as partial:
        if partial is None:
            return  # another process has made it while this one waited
        utterances = _speak(partial, speakers, lengths, seed)
        write_manifest(partial / "utterances.csv", utterances)
        write_csv(partial / "speakers.csv", map(dataclasses.asdict, speakers))
        (partial / "parameters.json").write_text(json.dumps(parameters, indent=2) + "\n", encoding="utf-8")


def _speak(folder: Path, speakers: list[Speaker], lengths: dict[str, int], seed: int) -> list[Utterance]:
    """Speak and write all clips; the utterances have paths relative to `folder`."""
    espeak = Espeak()
    pools = {split: itertools.cycle(pool) for split, pool in sentence_pools(seed).items()}
    columns = TextColumn("speaking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    utterances = []
    with Progress(*columns) as bar:
        task = bar.add_task("", total=sum(lengths[speaker.split] for speaker in speakers))
        for index, speaker in enumerate(speakers):
            rng = np.random.default_rng([seed, index])
            (folder / "clips" / speaker.id).mkdir(parents=True)
            # The pool is longer than the sentences of one speaker, so no speaker says a sentence twice.
            for number, text in enumerate(itertools.islice(pools[speaker.split], lengths[speaker.split])):
                speech = say(espeak, text, speaker)
                samples = record(speech, espeak.sample_rate, speaker, rng)
                utterances.append(write_clip(folder, f"{number:02d}", samples, text, speaker, LOCALE))
                bar.advance(task)
    return utterances


OPTION_HELP = {
    "speakers": "training speakers",
    "sentences": "sentences of each training speaker",
    "dev_speakers": "dev speakers, all unseen in training",
    "dev_sentences": "sentences of each dev speaker",
    "test_speakers": "test speakers, all unseen in training",
    "test_sentences": "sentences of each test speaker",
    "seed": "another seed, another corpus",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    return run_generator(
        "asr_fed.data_prep.synthetic", "Generate the synthetic French demo corpus.", prepare, OPTION_HELP, argv
    )


if __name__ == "__main__":
    sys.exit(main())
