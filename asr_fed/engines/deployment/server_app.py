"""The ServerApp of a deployment: the rounds, over the nodes that have joined a SuperLink."""

from pathlib import Path

import torch
from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from asr_fed.federation.rounds import run_federation
from asr_fed.runs.experiment import open_experiment
from asr_fed.runs.records import write_history
from asr_fed.runs.run_dir import exclusive
from asr_fed.system.errors import UserError
from asr_fed.system.files import write_text
from asr_fed.wire.careful_grid import CarefulGrid
from asr_fed.wire.hosts import RemoteNodes

app = ServerApp()
ERROR_FILE = "federation_error.txt"
WAITING_FILE = "federation_waiting.txt"  # who has joined, while nodes are waited for


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Entry point of Flower: run the federation of the run directory named in the run config.

    The reason of a failure is written to `ERROR_FILE` there, because the user does not see this process.
    """
    run_dir = Path(str(context.run_config["run-dir"]))
    (run_dir / ERROR_FILE).unlink(missing_ok=True)
    try:
        experiment = open_experiment(run_dir)
        torch.set_num_threads(experiment.config.engine.server_threads)
        with exclusive(run_dir / ".federation.lock", f"Another federation is running in {run_dir}."):
            hosts = RemoteNodes(CarefulGrid(grid))
            run_federation(
                experiment,
                hosts,
                lambda history: write_history(run_dir, history),
                on_wait=lambda text: write_text(run_dir / WAITING_FILE, text),
            )
    except UserError as error:
        write_text(run_dir / ERROR_FILE, str(error))
        raise
