"""The ClientApp that a run ships: it does nothing. Our nodes never load it; any other SuperNode gets an explanation."""

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

app = ClientApp()


@app.query()
@app.train()
def refuse(_message: Message, _context: Context) -> Message:
    raise RuntimeError("This federation wants a node started by: python -m asr_fed.deployment node NODE.yaml")
