"""Refuse an engine or a clock that the rest of the config contradicts."""

from asr_fed.config.addresses import is_loopback
from asr_fed.config.federation import Rule
from asr_fed.config.schema import (
    Config,
    EngineKind,
    FederationConfig,
    Late,
    Sampling,
    SimulationConfig,
)
from asr_fed.system.errors import UserError


def check_engine(settings: Config) -> None:
    if settings.engine.kind is not EngineKind.deployment:
        if settings.federation.robust.on:
            raise UserError(
                "federation.robust is about nodes that may lie, and needs engine=deployment: workers of a simulation "
                "add up clients as they come."
            )
        if settings.federation.buffer is not None:
            raise UserError(
                "federation.buffer takes answers as real nodes give them, and needs engine=deployment. Workers of this "
                "machine all have one clock: that of a fleet is simulation.buffer, with simulation=phones or another."
            )
        return
    _check_buffer(settings)
    address = settings.engine.address
    if address is None:
        raise UserError("engine=deployment needs the SuperLink: engine.address=HOST:PORT of its Control API.")
    if settings.federation.clients.wrong_transcripts:
        raise UserError(
            "federation.clients.wrong_transcripts is for simulations: nodes have transcripts of their own. Set it to 0."
        )
    parts = settings.data.parts
    if parts.transcribed < 1 or parts.transcribed_file:
        raise UserError(
            "data.parts.transcribed is for simulations: what a node has no transcript of is empty in its own manifest "
            "(column wrd). Set it to 1."
        )
    if settings.engine.certificates is None and not is_loopback(address):
        raise UserError(
            f"engine.address={address} is another machine, and without engine.certificates all that is sent there "
            "would be readable on the way: give the folder with the SuperLink's ca.crt."
        )
    _check_multi_krum(settings)
    for name in ("round_timeout", "client_timeout"):
        if getattr(settings.federation, name) is None:
            raise UserError(
                f"engine=deployment needs federation.{name}=SECONDS: without it a node that is there but stuck holds "
                "up the run for ever. Three times the longest ordinary one is a start."
            )


def _check_multi_krum(settings: Config) -> None:
    robust, nodes, buffer = settings.federation.robust, settings.engine.nodes, settings.federation.buffer
    needed = 2 * robust.liars + 3
    if robust.rule is not Rule.multi_krum:
        return
    start = f"federation.robust.rule=multi_krum with federation.robust.liars={robust.liars} needs {needed} nodes"
    if nodes < needed:
        raise UserError(f"{start}, and engine.nodes={nodes}: raise it, or lower liars.")
    if buffer is not None and buffer < needed:  # each of its updates may be another node's, and no step has more
        raise UserError(
            f"{start} in each step, and federation.buffer={buffer} is full before: raise it, or lower liars."
        )


def _check_buffer(settings: Config) -> None:
    federation = settings.federation
    if federation.buffer is None:
        return
    if settings.simulation is not None:
        raise UserError(
            "federation.buffer takes answers as real nodes give them, and simulation= decides beforehand who answers "
            "when: leave one of them out."
        )
    if federation.over_commit > 1:
        raise UserError(_over_commit(federation, "federation.buffer"))
    if federation.robust.node_share is not None:
        raise UserError(
            f"federation.robust.node_share={federation.robust.node_share:g} caps a node's part of a cohort, and with "
            "federation.buffer there are none: leave one of the two at null."
        )


def _over_commit(federation: FederationConfig, buffer: str) -> str:
    return (
        f"federation.over_commit={federation.over_commit:g} has no meaning with {buffer}: there federation.cohort is "
        "how many clients work at any time."
    )


def check_simulation(simulation: SimulationConfig, federation: FederationConfig) -> None:
    late, tau = simulation.late, simulation.tau
    if late is not Late.wait and tau is None:
        raise UserError(f"simulation.late={late.name} needs simulation.tau, the seconds after which a client is late.")
    if late is Late.wait and tau is not None:
        raise UserError(
            f"simulation.tau={tau:g} has no effect while simulation.late=wait waits for all: set simulation.late=drop "
            "or simulation.late=partial."
        )
    if simulation.buffer is not None and federation.over_commit > 1:
        raise UserError(_over_commit(federation, "simulation.buffer"))
    if simulation.buffer is not None and simulation.sampling is Sampling.oort:
        raise UserError("simulation.sampling=oort chooses cohorts, of which there are none with simulation.buffer.")
