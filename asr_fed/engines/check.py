"""Refuse an engine that cannot work, before anything is prepared or trained."""

from typing import NoReturn

from asr_fed.config.schema import Config, EngineConfig, EngineKind, Mode
from asr_fed.system.processes import available_cores


def check_reachable(config: Config) -> None:
    """Raises UserError if the engine of `config` is not installed, cannot be reached, or has no room for its workers.

    The local engine always works. A running Ray cluster is asked for its free room; the run's own cluster is not
    started for this check.
    """
    engine = config.engine
    if config.mode is Mode.central:
        return
    if engine.kind is EngineKind.ray:
        _check_ray(engine)
    elif engine.kind is EngineKind.deployment:
        from asr_fed.engines.deployment.engine import check_superlink

        check_superlink(engine)


def _check_ray(engine: EngineConfig) -> None:
    from asr_fed.engines.ray_cluster import check_temporary_folder, import_ray, no_room
    from asr_fed.engines.ray_pool import RayPool

    import_ray(own_cluster=engine.address is None)
    workers = engine.workers or 1
    if engine.address is None:
        check_temporary_folder()
        room = available_cores() // engine.threads_per_worker
        if workers > room:
            raise no_room(room, engine.threads_per_worker, engine.gpus_per_worker)
        return
    pool = RayPool(_no_worker, engine.address, engine.threads_per_worker, engine.gpus_per_worker)
    try:
        room = pool.room()
    finally:
        pool.close()
    if workers > room:
        raise no_room(room, engine.threads_per_worker, engine.gpus_per_worker)


def _no_worker(number: int, on_client: object, is_cancelled: object) -> NoReturn:
    raise NotImplementedError
