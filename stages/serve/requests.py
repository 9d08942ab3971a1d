"""Reading requests within bounds: what is too large, too deep or not as it should be is refused with a reason."""

import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Final

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

MAX_BODY_BYTES: Final = 16 << 20
MAX_JSON_BYTES: Final = 1 << 20
"""Of JSON less than of media: brackets take a hundred times their size once parsed."""
MAX_ITEMS: Final = 64
MAX_TEXT_CHARACTERS: Final = 4000


@dataclass(frozen=True)
class Field:
    """One value of a request: text when `filename` is None, otherwise a file."""

    name: str
    data: bytes
    filename: str | None = None


async def read_fields(request: Request) -> list[Field]:
    """Read a request's values, from JSON such as `{"text": ["a red seven"]}`, or from a multipart form.

    Raises:
        HTTPException: 400, 413 or 415, with what was found and what is expected.
    """
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise HTTPException(415, "found a content-encoding, expected a body that is not compressed")
    content_type = request.headers.get("content-type", "")
    kind = content_type.partition(";")[0].strip().lower()
    readers = {"application/json": _read_json, "multipart/form-data": _read_form}
    if kind not in readers:
        raise HTTPException(415, f"found content-type '{kind[:80]}', expected {' or '.join(readers)}")
    fields = await readers[kind](request)
    if len(fields) > MAX_ITEMS:
        raise HTTPException(413, f"found {len(fields)} values, expected at most {MAX_ITEMS}")
    for field in fields:
        if field.filename is None and len(field.data.decode()) > MAX_TEXT_CHARACTERS:
            raise HTTPException(413, f"'{field.name[:80]}' is longer than {MAX_TEXT_CHARACTERS} characters")
    return fields


async def _bounded(request: Request, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """Pass the body on as it comes, and stop at the first byte too many, whatever the headers claim."""
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > max_bytes:
            raise HTTPException(413, f"the body is larger than {max_bytes} bytes: send less at once")
        yield chunk


async def _read_json(request: Request) -> list[Field]:
    body = b"".join([chunk async for chunk in _bounded(request, MAX_JSON_BYTES)])
    try:
        content = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except RecursionError as error:
        raise HTTPException(400, "the body is nested too deeply, expected a flat object") from error
    except ValueError as error:
        raise HTTPException(400, f"the body is not JSON in UTF-8 ({str(error)[:200]})") from error
    if not isinstance(content, dict):
        found = type(content).__name__
        raise HTTPException(400, f'the body is a {found}, expected an object such as {{"text": ["…"]}}')
    return [
        Field(name, _encoded(name, value))
        for name, values in content.items()
        for value in (values if isinstance(values, list) else [values])
    ]


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number in JSON")


def _encoded(name: str, value: Any) -> bytes:
    if not isinstance(value, str):
        raise HTTPException(
            400, f"'{name[:80]}' holds a {type(value).__name__}, expected text or a list of texts"
        )
    try:
        return value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise HTTPException(400, f"'{name[:80]}' holds half a surrogate pair, expected text") from error


async def _read_form(request: Request) -> list[Field]:
    parser = MultiPartParser(
        request.headers,
        _bounded(request, MAX_BODY_BYTES),
        max_files=MAX_ITEMS,
        max_fields=MAX_ITEMS,
        max_part_size=MAX_BODY_BYTES,
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise HTTPException(400, f"the form cannot be read: {error.message}") from error
    try:
        return [await _field(name, value) for name, value in form.multi_items()]
    finally:
        await form.close()


async def _field(name: str, value: UploadFile | str) -> Field:
    if isinstance(value, str):
        return Field(name, _encoded(name, value))
    return Field(name, await value.read(), value.filename or "")
