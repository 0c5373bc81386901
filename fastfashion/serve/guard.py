"""The layers that every request passes before the page or the HTTP API sees it.

request ─► Linger ─► Responses ─► Checks (names, password, addresses) ─► Bodies ─► Api │ Uploads │ Questions ─► the page framework
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from fastfashion.serve.addresses import check_address
from fastfashion.serve.api import Api
from fastfashion.serve.asgi import App, Receive, Scope, Send
from fastfashion.serve.auth import Auth
from fastfashion.serve.bodies import Bodies, Linger
from fastfashion.serve.hosts import HostRules
from fastfashion.serve.questions import Questions
from fastfashion.serve.responses import Responses
from fastfashion.serve.store import Store
from fastfashion.serve.uploads import Uploads

if TYPE_CHECKING:
    import gradio as gr

    from fastfashion.serve.state import State


class Checks:
    """Passes a request on unless a check raises RefusedError; closes every WebSocket, as there are none here."""

    def __init__(self, app: App, *checks: Callable[[Scope], None]) -> None:
        self._app, self._checks = app, checks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] == "http":
            for check in self._checks:
                check(scope)
        await self._app(scope, receive, send)


def guarded(app: App, page: "gr.Blocks", state: "State", store: Store, auth: str, hosts: HostRules) -> App:
    """The page framework's application behind its layers; the last one here is the first that a request meets."""
    app = Questions(app, store, page, max(1, state.limits.queue // 2))
    app = Uploads(app, store)
    app = Api(app, state)
    app = Bodies(app, state.limits)
    # Names before passwords: another site's page may not even have one refused.
    app = Checks(app, hosts.check, Auth(auth).check, check_address)
    return Linger(Responses(app))
