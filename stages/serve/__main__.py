"""Serve the aligned encoders and the assistant over HTTP: embed, search and ask, and a page for people."""

import socket
from contextlib import suppress
from pathlib import Path

from stages.cli import command


def serve(
    aligned: Path,
    assistant: Path | None = None,
    index: Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    max_new_tokens: int = 48,
    allow: list[str] | None = None,
) -> None:
    """Answer requests until Ctrl-C, in one process, on the GPU where there is one.

    Args:
        aligned: The `parts/` folder of an alignment, for /embed and /search.
        assistant: The `parts/` folder of instruct, for /ask.
        index: The shards that /search searches; they are embedded at the start.
        host: Address to listen on. There is no password: anyone who reaches it may ask.
        port: Port to listen on; 0 takes a free one.
        max_new_tokens: Longer answers are cut.
        allow: Packages outside this project whose classes a part may name.

    Raises:
        FileNotFoundError: the index is not there.
        ValueError: the serve extra is not installed, the port is taken, or a part is missing or damaged.
    """
    try:
        import python_multipart  # noqa: F401 - Starlette imports it late, at the first form
        import starlette  # noqa: F401
        import uvicorn
    except ModuleNotFoundError as error:
        raise ValueError(f"{error.name} not installed; run: pip install 'trivium[serve]'") from error
    bound = bind(host, port)  # before the models: a taken port is told in a second

    import torch

    from modules.assistant import Assistant
    from modules.embedder import Embedder
    from stages.serve.app import build_app
    from stages.serve.index import Index
    from stages.serve.service import Service

    device = "cuda" if torch.cuda.is_available() else "cpu"
    embedder = Embedder.load(aligned, allow).to(device)
    service = Service(
        embedder,
        index=Index.build(embedder, index, device=device) if index else None,
        assistant=Assistant.load(assistant, allow).to(device) if assistant else None,
        max_new_tokens=max_new_tokens,
        device=device,
    )
    config = uvicorn.Config(
        build_app(service), log_level="warning", limit_concurrency=32, server_header=False
    )
    bound.listen()  # from here on clients are answered, if only in a moment
    address = f"[{host}]" if ":" in host else host
    print(f"Serving on http://{address}:{bound.getsockname()[1]} (Ctrl-C ends)", flush=True)
    with suppress(KeyboardInterrupt):  # uvicorn closes down in order, then passes it on
        uvicorn.Server(config).run(sockets=[bound])


def bind(host: str, port: int) -> socket.socket:
    """Take an address to listen on.

    Raises:
        ValueError: when it is taken, or not of this machine.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except (OSError, OverflowError) as error:
        bound.close()
        raise ValueError(
            f"cannot listen on {host}, port {port} ({error}); choose others by --host and --port"
        ) from error
    return bound


if __name__ == "__main__":
    command(serve)
