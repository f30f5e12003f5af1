"""What a run prints at its end."""

import pytest

from asr_fed.data.manifest import Utterance
from asr_fed.evaluation.evaluate import Evaluation
from asr_fed.evaluation.statistics import paired_test
from asr_fed.evaluation.wer import score
from asr_fed.reporting.evaluation_files import numbers
from asr_fed.reporting.figures import round_figures
from asr_fed.reporting.progress import RunProgress
from asr_fed.runs.summary import RunSummary, SystemResult
from tests.runs.test_records import record

SPEECH = [Utterance(f"u{n}", 1.0, "", f"s{n % 3}", "one two three four") for n in range(6)]


def evaluation(*wrong: int) -> Evaluation:
    return Evaluation(
        score(SPEECH, [" ".join(["x"] * n + u.text.split()[n:]) for n, u in zip(wrong, SPEECH, strict=True)])
    )


def test_the_table_of_a_run_ends_with_both_tests_of_its_own_recogniser(capsys: pytest.CaptureFixture[str]) -> None:
    own, start = evaluation(0, 1, 1, 0, 1, 1), evaluation(2, 2, 3, 2, 2, 4)
    paired = paired_test(own, start)
    summary = RunSummary(
        test_wer=own.wer,
        test_cer=own.cer,
        test_speakers=3,
        rounds=2,
        against={"warm_start": paired},
        systems={name: SystemResult(**numbers(found)) for name, found in (("warm_start", start), ("federated", own))},
    )
    tracked = {}
    with RunProgress(lambda name, value, step: tracked.update({name: (value, step)})) as progress:
        progress.result(summary)
    printed = capsys.readouterr().out
    assert f"federated against warm start: {paired.difference:+.2f} points of WER" in printed
    assert f"paired t over speakers p {paired.paired_t_p:.3g}" in printed
    assert f"matched pairs p {paired.matched_pairs_p:.3g} over {paired.segments} segments" in printed
    assert tracked["test/federated_wer"] == (own.wer, 2)


def test_the_line_of_an_asynchronous_step_says_how_old_its_updates_were(capsys: pytest.CaptureFixture[str]) -> None:
    with RunProgress() as progress:
        progress.round(record(3, staleness=1.25))
        progress.round(record(4))
    told = {line[:9]: line for line in capsys.readouterr().out.splitlines() if line.startswith("round")}
    assert "steps old 1.2" in told["round   3"] and "steps old" not in told["round   4"]


def test_a_report_draws_the_age_of_updates_where_they_have_one() -> None:
    assert "Age of the updates" in round_figures([record(1, staleness=0.0), record(2, staleness=1.5)])
    assert "Age of the updates" not in round_figures([record(1)])


def test_ids_of_clients_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """Those of a node are its owner's choice; markup in them must not end the run."""
    with RunProgress() as progress:
        progress.round(record(3, failures={"clinic-b-[/x]": "no speech", "[bold]anne": "no speech"}))
        progress.say("clips/[old] 1:a:2.wav")
    printed = capsys.readouterr().out
    assert "failed: clinic-b-[/x], [bold]anne" in printed and "clips/[old] 1:a:2.wav" in printed
