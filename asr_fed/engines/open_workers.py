"""The engines whose workers are our own: processes on this machine, or actors of a Ray cluster."""

import functools
import logging
from collections.abc import Callable

from asr_fed.config.schema import EngineKind
from asr_fed.engines.local_pool import LocalPool
from asr_fed.engines.worker_count import oversubscription, pick_workers
from asr_fed.engines.workers import Pool, Workers
from asr_fed.federation.client_app import open_worker
from asr_fed.runs.experiment import Experiment

log = logging.getLogger(__name__)


def open_workers(experiment: Experiment, on_client: Callable[[str], None] = lambda client: None) -> Workers:
    """The workers that the config asks for, over the run directory of `experiment`."""
    config, engine = experiment.config, experiment.config.engine
    opened = functools.partial(open_worker, str(experiment.run_dir.absolute()))
    pool: Pool
    if engine.kind is EngineKind.ray:
        from asr_fed.engines.ray_pool import RayPool  # Ray is an extra

        pool = RayPool(opened, engine.address, engine.threads_per_worker, engine.gpus_per_worker)
        workers = engine.workers or max(1, pool.room())
    else:
        pool = LocalPool(opened, engine.threads_per_worker)
        workers = pick_workers(experiment)
        if oversubscribed := oversubscription(workers, engine.threads_per_worker):
            log.warning(oversubscribed)
    return Workers(pool, workers, on_client, config.federation.client_timeout)
