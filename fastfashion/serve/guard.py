"""What every request passes before the page or the HTTP API sees it. Each layer is a class of its own module; here is their order."""

from typing import TYPE_CHECKING

from fastfashion.serve.asgi import App
from fastfashion.serve.auth import Auth
from fastfashion.serve.bodies import Bodies, Linger
from fastfashion.serve.errors import Errors
from fastfashion.serve.hosts import HostRules, Hosts
from fastfashion.serve.limits import Limits
from fastfashion.serve.paths import Paths
from fastfashion.serve.policy import Policy
from fastfashion.serve.routes import Routes
from fastfashion.serve.store import Store
from fastfashion.serve.upload import Uploads

if TYPE_CHECKING:
    import gradio as gr


def guarded(app: App, page: "gr.Blocks", store: Store, limits: Limits, auth: str, hosts: HostRules) -> App:
    """The application behind its layers; the last one here is the first that a request meets."""
    app = Paths(app, store, page, max(1, limits.queue // 2))
    app = Uploads(app, store)
    app = Bodies(app, limits)
    app = Routes(app)
    app = Auth(app, auth)
    app = Hosts(app, hosts)  # before passwords: another site's page may not even have one refused
    app = Errors(app)
    app = Linger(app)
    return Policy(app)
