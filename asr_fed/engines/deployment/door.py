"""Whether the server lets a node in, tried one step after the other; what is wrong is said in words."""

import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx

from asr_fed.engines.deployment.settings import NodeSettings
from asr_fed.engines.deployment.signature import MEMBER, NEWEST, OLDEST, sign
from asr_fed.system.errors import UserError
from asr_fed.wire.records import told

ANSWER = 10.0  # seconds
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 60.0
SOON = timedelta(days=30)  # a certificate that ends before then is to be renewed
# Of OpenSSL's X509_V_ERR_*: what a certificate that is not accepted has wrong.
NOT_YET, EXPIRED, OTHER_NAME = 9, 10, (62, 64)


@dataclass(frozen=True)
class Finding:
    """One thing that was tried, and what came of it. `well` is None where it could not be tried."""

    what: str
    well: bool | None
    told: str


@dataclass
class Waiting:
    """Tells why a node waits: at first again after two seconds, then ever more rarely, up to once a minute."""

    say: Callable[[str], None]
    pause: float = FIRST_PAUSE

    def because(self, fault: str) -> float:
        """Say it, and return the seconds after which to try again."""
        pause = self.pause
        self.say(f"waiting: {fault}. Trying again in {pause:.0f} s")
        self.pause = min(2 * pause, LONGEST_PAUSE)
        return pause

    @property
    def begun(self) -> bool:
        return self.pause > FIRST_PAUSE

    def over(self) -> None:
        self.pause = FIRST_PAUSE


def fault(settings: NodeSettings) -> str | None:
    """Why the server does not let this node in; None if it does."""
    return next((found.told for found in knock(settings) if found.well is False), None)


def knock(settings: NodeSettings) -> Iterator[Finding]:
    """The name, the port, TLS, the clock and the key of a node, up to the first that has a fault."""
    host, _, port = settings.superlink.rpartition(":")
    host = host.strip("[]")
    try:
        found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError, OverflowError) as error:
        yield Finding("name", False, f"no machine has the name {host} ({error})")
        return
    yield Finding("name", True, f"{host} is {found[0][4][0]}")
    try:
        connection = socket.create_connection((host, int(port)), ANSWER)
    except (OSError, OverflowError) as error:
        yield Finding("port", False, f"{settings.superlink} cannot be reached: {_unreachable(error)}")
        return
    with connection:
        yield Finding("port", True, f"something listens at {settings.superlink}")
        if settings.certificate is None:
            yield Finding("TLS", True, "none: what is said stays on this machine")
            return
        tls = _shake_hands(connection, host, settings.certificate)
        yield tls
    if tls.well:
        yield from _introduce(settings)


def _unreachable(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "the connection is refused: is the server running, and is it the right port?"
    if isinstance(error, TimeoutError):
        return f"no answer within {ANSWER:.0f} s: does a firewall let this port through?"
    return str(getattr(error, "strerror", None) or error)


def _shake_hands(connection: socket.socket, host: str, certificate: str) -> Finding:
    try:
        context = ssl.create_default_context(cafile=certificate)
    except OSError as error:  # ssl.SSLError is one
        return Finding("TLS", False, f"{certificate} is no certificate: {error}")
    try:
        with context.wrap_socket(connection, server_hostname=host) as shaken:
            ends = ssl.cert_time_to_seconds(str((shaken.getpeercert() or {})["notAfter"]))
    except ssl.SSLCertVerificationError as error:
        return Finding("TLS", False, _not_accepted(error, host, certificate))
    except OSError as error:
        return Finding("TLS", False, f"what listens there does not speak TLS ({error}): is it the right port?")
    left = datetime.fromtimestamp(ends, UTC) - datetime.now(UTC)
    renew = ": its operator renews it before" if left < SOON else ""
    return Finding("TLS", True, f"the server's certificate is of {Path(certificate).name}, for {left.days} days{renew}")


def _not_accepted(error: ssl.SSLCertVerificationError, host: str, certificate: str) -> str:
    if error.verify_code == NOT_YET:
        return "the server's certificate is not valid yet: is this machine's clock right?"
    if error.verify_code == EXPIRED:
        return "the server's certificate has expired: its operator renews it (asr_fed.deployment renew)"
    if error.verify_code in OTHER_NAME:
        return f"the server's certificate is not for {host}: its operator makes it with --host {host}"
    return (
        f"the server's certificate is of another CA than {certificate} ({error.verify_message}): ask the server's "
        "operator for its ca.crt, and be sure that it is the right server"
    )


def _introduce(settings: NodeSettings) -> Iterator[Finding]:
    """The clock and the key, by a request that is signed with it."""
    context = ssl.create_default_context(cafile=settings.certificate)
    sent = datetime.now(UTC)
    try:
        headers = sign(Path(str(settings.key)))
        with httpx.Client(verify=context, timeout=ANSWER, trust_env=False) as client:
            answer = client.get(f"https://{settings.superlink}{MEMBER}", headers=headers)
    except UserError as error:
        yield Finding("key", False, str(error).rstrip("."))
        return
    except httpx.HTTPError as error:
        yield Finding("key", False, f"the server does not answer ({type(error).__name__})")
        return
    clock = _clock(answer.headers.get("date", ""), sent)
    yield clock
    if clock.well is not False:
        yield _key(answer, settings)


def _clock(date: str, sent: datetime) -> Finding:
    """The server's time, in whole seconds, against the node's."""
    try:
        ahead = (sent - parsedate_to_datetime(date)).total_seconds()
    except (ValueError, TypeError):
        return Finding("clock", None, "the server does not say what time it has")
    told = f"this machine's clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the server's"
    if -OLDEST < ahead < 1 - NEWEST:
        return Finding("clock", True, told)
    return Finding("clock", False, f"{told}, and its signatures are not accepted: set it (NTP)")


def _key(answer: httpx.Response, settings: NodeSettings) -> Finding:
    said = told(answer.text[:300])
    match answer.status_code:
        case 200 if said in (settings.name, "?"):
            return Finding("key", True, f"registered as {settings.name}" if said != "?" else "the server keeps no list")
        case 200:
            return Finding("key", False, f"the server has this key as {said}, and this node is called {settings.name}")
        case 401:
            asked = f"the server's operator registers {settings.key}.pub (asr_fed.deployment register)"
            return Finding("key", False, f"the server does not take this node's key: {said}: {asked}")
        case 404:
            return Finding("key", None, "the server cannot say: it has an older version of asr_fed")
    return Finding("key", False, f"the server answers {answer.status_code}: {said}")
