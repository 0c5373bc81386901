"""What a page of ours may load, and who may show it in a frame."""

from fastfashion.serve.asgi import App, Message, Receive, Scope, Send

# Only notebooks show it in a frame of theirs: Jupyter's on this machine, and Colab's, whose cells are pages of googleusercontent.com.
FRAMES = (
    "'self' http://localhost:* http://127.0.0.1:* https://localhost:* https://colab.research.google.com https://*.googleusercontent.com"
)
# The page's files, fonts and requests are its own server's: browsers refuse all else.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
    "worker-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; "
    f"frame-ancestors {FRAMES}"
)
# "no-referrer" would have a form of ours say `Origin: null`, as if a foreign page had sent it (serve/hosts.py).
ADDED = [(b"content-security-policy", POLICY.encode()), (b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"same-origin")]


class Policy:
    """Adds the headers to every answer."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *ADDED]
            await send(message)

        await self._app(scope, receive, sent if scope["type"] == "http" else send)
