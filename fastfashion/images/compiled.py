"""The native code of images (images/native), where it was built."""

try:
    from fastfashion.images import _native as native
except ImportError:  # built without a C compiler, or without libjpeg-turbo's headers
    native = None  # type: ignore[assignment]

INSTALL_AGAIN = "install it again with a C compiler and libjpeg-turbo's headers (Debian: apt install gcc libjpeg-dev)"
