"""Packages that not everybody needs, asked for before the work begins."""

from importlib.util import find_spec


def require(package: str, extra: str) -> None:
    """Check that a package is installed, without importing it.

    Raises:
        ValueError: it is not; the message says what to install.
    """
    if find_spec(package) is None:
        raise ValueError(f"the package {package} is not installed: pip install 'trivium[{extra}]'")
