"""At the end of a sweep (`--multirun`): a comparison of its runs."""

import json
import sys
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from asr_fed.reporting.compare import against_first, describe_run, show_comparison, write_comparison
from asr_fed.system.exit_status import exit_status
from asr_fed.system.files import replacing


class Sweep(Callback):
    """Hooks of Hydra. Each run writes a record to the sweep's folder, because a launcher may run it in another
    process."""

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Write the record of a run: `job_return.return_value` is its summary, or says why it `failed`."""
        if config.hydra.mode is RunMode.MULTIRUN and job_return.cfg is not None:
            run_dir = OmegaConf.select(job_return.cfg, "run_dir")
            record = describe_run(job_return.overrides or (), run_dir, job_return.return_value)
            with replacing(Path(config.hydra.sweep.dir) / f"{config.hydra.job.num}.json") as path:
                path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table and write the comparison; exits with 2 where a run has failed, or the comparison."""
        # Of an exception Hydra would make a warning, and status 0.
        if status := exit_status("asr-fed", lambda: _compare(Path(config.hydra.sweep.dir))):
            sys.exit(status)


def _compare(folder: Path) -> int:
    files = sorted((path for path in folder.glob("*.json") if path.stem.isdigit()), key=lambda path: int(path.stem))
    if not files:
        return 0
    records = against_first([json.loads(path.read_text(encoding="utf-8")) for path in files])
    write_comparison(folder, records)
    show_comparison(folder, records)
    return 2 if any(record["failed"] for record in records) else 0
