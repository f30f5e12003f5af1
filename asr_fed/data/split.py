"""Split a corpus by speaker into test, dev, warm-up, held-out, and the rest for clients."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from math import fsum

from asr_fed.config.check import check_clients, check_parts
from asr_fed.config.schema import ClientsConfig, PartsConfig, WarmUpRule
from asr_fed.data.deal import deal_speakers
from asr_fed.data.identity import identity
from asr_fed.data.manifest import Utterance
from asr_fed.data.partition import Partition
from asr_fed.data.ranking import load, ranked, without
from asr_fed.data.text_file import read_lines
from asr_fed.system.errors import UserError


def partition_speakers(
    utterances: Iterable[Utterance],
    parts: PartsConfig,
    clients: ClientsConfig,
    seed: int,
    *,
    clients_elsewhere: bool = False,
    reads_transcripts: bool = True,
) -> Partition:
    """Divide a corpus by speaker; the same for any order of `utterances`.

    With `clients_elsewhere` no speaker has to be left for clients, because their speech may be elsewhere.

    A speaker with an utterance that has no transcript becomes a client, or part of one. Only if that is every speaker,
    and the run does not read transcripts, they are divided as if they had them. Where some speakers have, that run
    measures on them, too: a recogniser that begins with its encoder will be measured on them.

    A speaker whose utterances carry several splits goes wholly to one part, test before dev before
    training; the speaker's other utterances are dropped (`Partition.dropped["other_split"]`).

    Raises UserError where the configuration contradicts itself or asks for more than the corpus holds. Only
    `parts.warm_up_file` is read from disk.
    """
    check_parts(parts)
    check_clients(clients)
    dropped: dict[str, tuple[Utterance, ...]] = {}
    by_speaker, split_of, outside = _resolve_splits(utterances)
    if outside:
        dropped["other_split"] = tuple(outside)
    if parts.max_train_seconds is not None:
        dropped |= _drop_long(by_speaker, split_of, parts.max_train_seconds)
    seconds = {speaker: fsum(u.duration for u in own) for speaker, own in by_speaker.items()}

    silent = _silent_speakers(by_speaker, split_of, reads_transcripts)
    untold = _describe_silent(len(silent), len(by_speaker))

    def gather(speakers: Iterable[str]) -> tuple[Utterance, ...]:
        return tuple(utterance for speaker in sorted(speakers) for utterance in by_speaker[speaker])

    # Test is drawn first, then dev, so that other settings do not change them.
    pool = [speaker for speaker in by_speaker if split_of[speaker] == "train"]
    listed = _listed_speakers(parts.warm_up_file, split_of) if parts.warm_up_file else None
    if gone := sorted(set(listed or []) - by_speaker.keys()):
        raise UserError(
            f"warm_up_file={parts.warm_up_file}: {len(gone)} speaker(s) have only utterances of more than "
            f"data.parts.max_train_seconds={parts.max_train_seconds}, such as {', '.join(gone[:3])}: leave them "
            "out, or raise it."
        )
    if unheard := sorted(set(silent) & set(listed or [])):
        raise UserError(
            f"warm_up_file={parts.warm_up_file}: {len(unheard)} speaker(s) have utterances without transcript, such as "
            f"{', '.join(unheard[:3])}. Take them off the list."
        )
    free = without(pool, (*(listed or []), *silent))
    test = [speaker for speaker in by_speaker if split_of[speaker] == "test"]
    if not test:
        room = parts.test_share * load(pool, seconds)
        test = _draw_evaluation("test", free, seconds, parts.test_speakers, room, seed, untold)
        free = without(free, test)
    dev = [speaker for speaker in by_speaker if split_of[speaker] == "dev"]
    if not dev:
        room = parts.dev_share * load(pool, seconds)
        dev = _draw_evaluation("dev", free, seconds, parts.dev_speakers, room, seed, untold)
        free = without(free, dev)
    warm_up = _choose_warm_up(free, seconds, parts, seed, untold) if listed is None else listed
    free = without(free, warm_up)
    if parts.held_out_speakers > len(free):
        raise UserError(
            f"held_out_speakers={parts.held_out_speakers}, but test ({len(test)}), dev ({len(dev)}) and "
            f"warm-up ({len(warm_up)}) leave only {len(free)} of {len(by_speaker)} speakers. Ask for fewer.{untold}"
        )
    held_out = ranked(free, seed, "held_out")[: parts.held_out_speakers]
    free = without(free, held_out) + silent

    taken = (
        f"of {len(by_speaker)} speakers {len(test)} are test, {len(dev)} dev, {len(warm_up)} warm-up and "
        f"{len(held_out)} held-out"
    )
    if not free and clients_elsewhere:
        return Partition(gather(warm_up), gather(held_out), gather(dev), gather(test), (), dropped)
    if not free:
        raise UserError(f"No speaker is left for the clients: {taken}. Ask for fewer there.")
    if clients.count is not None and clients.count > len(free):
        raise UserError(
            f"count={clients.count} clients, but only {len(free)} speaker(s) are left for them: {taken}. "
            f"Lower count to {len(free)} or less."
        )
    owners, too_small = deal_speakers(free, by_speaker, clients, seed)
    if too_small:
        dropped["too_small"] = gather(too_small)
    return Partition(gather(warm_up), gather(held_out), gather(dev), gather(test), tuple(owners), dropped)


def _resolve_splits(
    utterances: Iterable[Utterance],
) -> tuple[dict[str, list[Utterance]], dict[str, str], list[Utterance]]:
    """Utterances by speaker, each speaker's one split (test, dev or train), and the utterances outside it."""
    ordered = sorted(utterances, key=lambda u: (u.speaker, u.id))
    if not ordered:
        raise UserError("The manifest holds no utterance: there is nothing to partition.")
    if len({utterance.id for utterance in ordered}) < len(ordered):
        raise UserError("An utterance ID occurs twice. Give the corpora that you join different IDs.")
    everything: defaultdict[str, list[tuple[str, Utterance]]] = defaultdict(list)
    for utterance in ordered:
        split = utterance.split.strip().lower()
        everything[utterance.speaker].append((split if split in ("dev", "test") else "train", utterance))
    by_speaker: dict[str, list[Utterance]] = {}
    split_of: dict[str, str] = {}
    outside: list[Utterance] = []
    for speaker, own in everything.items():
        splits = {split for split, _ in own}
        chosen = next(split for split in ("test", "dev", "train") if split in splits)
        split_of[speaker] = chosen
        by_speaker[speaker] = [utterance for split, utterance in own if split == chosen]
        outside += [utterance for split, utterance in own if split != chosen]
    return by_speaker, split_of, outside


def _silent_speakers(
    by_speaker: Mapping[str, list[Utterance]], split_of: Mapping[str, str], reads_transcripts: bool
) -> list[str]:
    """Those who can be in clients alone, for want of a transcript."""
    silent = [speaker for speaker, own in by_speaker.items() if not all(utterance.text for utterance in own)]
    if not reads_transcripts and len(silent) == len(by_speaker):
        return []
    if judged := sorted(speaker for speaker in silent if split_of[speaker] != "train"):
        raise UserError(
            f"{len(judged)} speaker(s) of the corpus's own dev or test set have utterances without transcript, such as "
            f"{', '.join(judged[:3])}: what is measured on needs them."
        )
    return silent


def _describe_silent(silent: int, speakers: int) -> str:
    """What to add where too few speakers are left for a part."""
    if not silent:
        return ""
    told = (
        f" {silent} of {speakers} speakers have utterances without transcript and become clients: the speakers of "
        "warm-up, held-out, dev and test need one for each of theirs."
    )
    alone = " Pre-training alone (task.kind=best_rq fine_tune.epochs=0) needs none."
    return told + alone if silent == speakers else told


def _drop_long(
    by_speaker: dict[str, list[Utterance]], split_of: Mapping[str, str], most: float
) -> dict[str, tuple[Utterance, ...]]:
    """Take utterances of more than `most` seconds out of the training pool, in place; returns them, if any."""
    long: list[Utterance] = []
    for speaker in [speaker for speaker in by_speaker if split_of[speaker] == "train"]:
        long += [utterance for utterance in by_speaker[speaker] if utterance.duration > most]
        by_speaker[speaker] = [utterance for utterance in by_speaker[speaker] if utterance.duration <= most]
        if not by_speaker[speaker]:
            del by_speaker[speaker]
    return {"too_long": tuple(long)} if long else {}


def _draw_evaluation(
    part: str, free: list[str], seconds: Mapping[str, float], count: int | None, room: float, seed: int, untold: str
) -> list[str]:
    """`count` speakers for dev or test; if it is None, as many drawn speakers as fit into `room` seconds."""
    if len(free) < (count or 1):
        raise UserError(
            f"The {part} set needs {count or 1} speaker(s), but only {len(free)} are free: the corpus has no "
            f"{part} split of its own. Lower {part}_speakers, or add speakers.{untold}"
        )
    by_rank = ranked(free, seed, part)
    if count is not None:
        return by_rank[:count]
    chosen = []
    for speaker in by_rank:
        if seconds[speaker] <= room:
            chosen.append(speaker)
            room -= seconds[speaker]
    return chosen or [min(by_rank, key=seconds.__getitem__)]


def _listed_speakers(path: str, split_of: Mapping[str, str]) -> list[str]:
    try:
        listed = sorted({identity(line) for line in read_lines(path)})
    except UserError as error:
        raise UserError(f"warm_up_file: {error} It should list one speaker id a line.") from None
    unknown = [speaker for speaker in listed if speaker not in split_of]
    if unknown:
        raise UserError(
            f"warm_up_file={path}: {len(unknown)} of {len(listed)} speakers are not in the manifest, "
            f"such as {', '.join(unknown[:3])}."
        )
    evaluated = [speaker for speaker in listed if split_of[speaker] != "train"]
    if evaluated:
        raise UserError(
            f"warm_up_file={path}: {len(evaluated)} of {len(listed)} speakers belong to the corpus's own dev "
            f"or test set, such as {', '.join(evaluated[:3])}. Take them off the list."
        )
    if not listed:
        raise UserError(f"warm_up_file={path} lists no speaker. For no warm-up set warm_up_speakers=0.")
    return listed


def _choose_warm_up(
    free: list[str], seconds: Mapping[str, float], parts: PartsConfig, seed: int, untold: str
) -> list[str]:
    speakers, wanted = parts.warm_up_speakers, parts.warm_up_hours
    by_rank = ranked(free, seed, "warm_up")
    if parts.warm_up_rule is not WarmUpRule.random:
        # The sort is stable, so equal amounts keep their random order.
        by_rank.sort(key=seconds.__getitem__, reverse=parts.warm_up_rule is WarmUpRule.most_audio)
    chosen: list[str] = []
    held = 0.0
    while (speakers is None or len(chosen) < speakers) and (wanted is None or held < wanted * 3600):
        if len(chosen) == len(by_rank):
            demand = [
                f"{name}={value:g}"
                for name, value in (("warm_up_speakers", speakers), ("warm_up_hours", wanted))
                if value is not None
            ]
            raise UserError(
                f"{', '.join(demand)}: the {len(by_rank)} speaker(s) that are neither dev nor test hold "
                f"{held / 3600:.2f} hours in all. Ask for less.{untold}"
            )
        held += seconds[by_rank[len(chosen)]]
        chosen.append(by_rank[len(chosen)])
    return chosen
