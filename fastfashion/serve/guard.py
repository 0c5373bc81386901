"""What every request passes before the page or the HTTP API sees it. Each layer is a class of its own module; here is their order."""

from pathlib import Path

from fastfashion.serve.asgi import App
from fastfashion.serve.auth import Auth
from fastfashion.serve.bodies import Bodies
from fastfashion.serve.errors import Errors
from fastfashion.serve.hosts import HostRules, Hosts
from fastfashion.serve.limits import Limits
from fastfashion.serve.policy import Policy


def guarded(app: App, limits: Limits, store: Path, auth: str, hosts: HostRules) -> App:
    """The application behind its layers; the last one here is the first that a request meets."""
    app = Bodies(app, limits, store)
    app = Auth(app, auth)
    app = Hosts(app, hosts)  # before passwords: another site's page may not even have one refused
    app = Errors(app)
    return Policy(app)
