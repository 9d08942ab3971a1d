"""Serve: a real client asks a real server, which answers as the models do in process and refuses what is bad."""

import io
import json
import re
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch

from datamodules.modalities.build import build_modalities
from datamodules.shards.writer import write_shards
from datamodules.stream import batches
from modules.assistant import CONVERSATION, Assistant
from modules.embedder import Embedder
from stages.cli import command
from stages.serve.__main__ import serve

ROOT = Path(__file__).parents[2]
MEMBERS = {"text": "txt", "image": "png", "audio": "flac"}
MAX_NEW_TOKENS = 6


@pytest.fixture(scope="module")
def server(aligned_parts, assistant_parts, scenes_shards) -> Iterator[subprocess.Popen]:
    """A server in a process of its own, which Ctrl-C has to close in order at the end."""
    folders = ["--aligned", aligned_parts, "--assistant", assistant_parts, "--index", scenes_shards]
    line = [
        sys.executable,
        "-m",
        "stages.serve",
        *folders,
        "--port",
        "0",
        "--max_new_tokens",
        str(MAX_NEW_TOKENS),
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([str(word) for word in line], cwd=ROOT, **pipes) as process:
        yield process
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=20)[1]
        assert process.returncode == 0
        assert "Traceback" not in said, said


@pytest.fixture(scope="module")
def client(server) -> Iterator[httpx.Client]:
    """A client of the server."""
    found = re.search(r"http://\S+", server.stdout.readline())
    assert found, f"the server did not start: {server.stderr.read()}"
    with httpx.Client(base_url=found.group(), timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def vectors(aligned_parts, scenes_shards) -> dict[str, torch.Tensor]:
    """Unit vectors of the scenes, embedded in process as `evaluate` does."""
    embedder = Embedder.load(aligned_parts)
    with torch.inference_mode():
        [batch] = batches(scenes_shards, build_modalities(embedder.input_configs), 11)
        return embedder(batch.inputs)


def files(scenes: list[dict], *modalities: str) -> list[tuple]:
    """Return a form's files."""
    return [
        (modality, (f"{scene['__key__']}.{MEMBERS[modality]}", scene[MEMBERS[modality]]))
        for scene in scenes
        for modality in modalities
    ]


def test_health_says_what_there_is(client):
    health = client.get("/health").json()
    assert health["status"] == "ok"
    assert health["dim"] == 24 and health["samples"] == 11 and health["ask"] == ["audio", "image"]
    assert "flac" in health["modalities"]["audio"]


def test_the_page_for_people_needs_nothing_from_elsewhere(client):
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "<form" in page.text
    assert not re.search(r"(src|href)=|https?://|@import", page.text)


def test_vectors_equal_those_of_the_models_in_process(client, scenes, vectors):
    texts = [scene["txt"].decode() for scene in scenes]
    found = client.post("/embed", json={"text": texts}).json()["vectors"]
    found |= client.post("/embed", files=files(scenes, "image", "audio")).json()["vectors"]
    for modality in MEMBERS:
        torch.testing.assert_close(torch.tensor(found[modality]), vectors[modality], rtol=0, atol=1e-6)


def test_a_form_may_mix_texts_and_files(client, scenes, vectors):
    reply = client.post("/embed", data={"text": scenes[3]["txt"].decode()}, files=files(scenes[4:5], "image"))
    found = reply.json()["vectors"]
    torch.testing.assert_close(torch.tensor(found["text"][0]), vectors["text"][3], rtol=0, atol=1e-6)
    torch.testing.assert_close(torch.tensor(found["image"][0]), vectors["image"][4], rtol=0, atol=1e-6)


@pytest.mark.parametrize("modality", MEMBERS)
def test_a_sample_finds_itself_and_the_order_is_that_of_the_vectors(modality, client, scenes, vectors):
    if modality == "text":
        reply = client.post("/search?count=4", json={"text": scenes[5]["txt"].decode()})
    else:
        reply = client.post("/search?count=4", files=files(scenes[5:6], modality))
    hits = reply.json()["hits"]
    assert set(hits) == set(MEMBERS)
    assert hits[modality][0]["key"] == "000005"
    assert hits[modality][0]["text"] == scenes[5]["txt"].decode()
    assert hits[modality][0]["score"] == pytest.approx(1, abs=1e-5)
    for other in MEMBERS:
        similarity = vectors[other] @ vectors[modality][5]
        assert [hit["score"] for hit in hits[other]] == pytest.approx(
            similarity.topk(4).values.tolist(), abs=1e-5
        )


def test_answers_equal_those_of_the_assistant_in_process(client, scenes, assistant_parts, tmp_path):
    questions = [
        ("Which digit?", ()),
        ("Which digit is shown?", ("image",)),
        ("What is said?", ("image", "audio")),
    ]
    records = []
    for (question, media), scene in zip(questions, scenes, strict=False):
        value = "".join(f"<{name}>\n" for name in media) + question
        turns = [{"from": "human", "value": value}, {"from": "gpt", "value": "seven"}]
        members = {MEMBERS[name]: scene[MEMBERS[name]] for name in media}
        records.append(
            {"__key__": scene["__key__"], "json": json.dumps({"conversations": turns}).encode(), **members}
        )
    write_shards(records, tmp_path)
    assistant = Assistant.load(assistant_parts)
    [batch] = batches(tmp_path, build_modalities(assistant.input_configs), 8)
    expected = assistant.generate(batch.inputs, batch.rows, MAX_NEW_TOKENS)
    assert len(batch.rows[CONVERSATION]) == 3 and len(set(expected)) > 1

    for (question, media), scene, answer in zip(questions, scenes, expected, strict=False):
        tagged = "".join(f"<{name}>\n" for name in media) + question
        for asked, order in ((question, media), (tagged, media[::-1])):
            form = {"question": (None, asked)} | dict(files([scene], *order))
            assert client.post("/ask", files=form).json() == {"answer": answer}


def test_clients_at_once_each_get_their_own_answer(client, scenes, vectors):
    def embed(number: int) -> list[float]:
        return client.post("/embed", json={"text": scenes[number]["txt"].decode()}).json()["vectors"]["text"][
            0
        ]

    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(embed, range(11)))
    torch.testing.assert_close(torch.tensor(found), vectors["text"], rtol=0, atol=1e-6)


def bomb() -> bytes:
    """A picture of 100 million pixels in a few kB."""
    from PIL import Image

    data = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(data, "png")
    return data.getvalue()


JSON = {"content-type": "application/json"}
FORM = {"content-type": "multipart/form-data; boundary=x"}
BAD = {
    "no body": ("/embed", {}, 415, "content-type"),
    "a text type": (
        "/embed",
        {"content": "hi", "headers": {"content-type": "text/plain"}},
        415,
        "application/json",
    ),
    "an empty body": ("/embed", {"content": b"", "headers": JSON}, 400, "not JSON"),
    "broken JSON": ("/embed", {"content": b'{"text": [', "headers": JSON}, 400, "not JSON"),
    "not UTF-8": ("/embed", {"content": b'{"text": "\xff"}', "headers": JSON}, 400, "not JSON"),
    "not a number": ("/embed", {"content": b'{"text": NaN}', "headers": JSON}, 400, "NaN"),
    "a huge number": ("/embed", {"content": b'{"text": ' + b"9" * 5000 + b"}", "headers": JSON}, 400, ""),
    "half a surrogate": ("/embed", {"content": b'{"text": "\\ud800"}', "headers": JSON}, 400, "surrogate"),
    "deep JSON": ("/embed", {"content": b'{"text": ' + b"[" * 100_000, "headers": JSON}, 400, "deep"),
    "a list": ("/embed", {"json": ["a"]}, 400, "an object"),
    "a number for a text": ("/embed", {"json": {"text": 5}}, 400, "holds a int"),
    "true for a text": ("/embed", {"json": {"text": [True]}}, 400, "holds a bool"),
    "a list in a list": ("/embed", {"json": {"text": [["a"]]}}, 400, "holds a list"),
    "nothing": ("/embed", {"json": {}}, 400, "nothing to embed"),
    "an empty text": ("/embed", {"json": {"text": [" "]}}, 400, "empty_text"),
    "an unknown modality": ("/embed", {"json": {"smell": "rose"}}, 400, "expected audio, image, text"),
    "a long text": ("/embed", {"json": {"text": "a" * 4001}}, 413, "4000 characters"),
    "too many texts": ("/embed", {"json": {"text": ["a"] * 65}}, 413, "at most 64"),
    "large JSON": ("/embed", {"content": b" " * (1 << 20) + b"{}", "headers": JSON}, 413, "larger than"),
    "a large form": ("/embed", {"files": [("image", ("a.png", bytes(17 << 20)))]}, 413, "larger than"),
    "too many files": ("/embed", {"files": [("image", ("a.png", b"x"))] * 65}, 400, "Too many files"),
    "a URL for a picture": (
        "/embed",
        {"json": {"image": "http://127.0.0.1:9/x.png"}},
        400,
        "expected a file",
    ),
    "no boundary": (
        "/embed",
        {"content": b"x", "headers": {"content-type": "multipart/form-data"}},
        400,
        "boundary",
    ),
    "a broken form": ("/embed", {"content": b"nonsense", "headers": FORM}, 400, ""),
    "a form without names": ("/embed", {"content": b"--x\r\n\r\nhi\r\n--x--\r\n", "headers": FORM}, 400, ""),
    "a file without a name": ("/embed", {"files": [("image", (" ", b"x"))]}, 400, "ends in"),
    "a page named .png": ("/embed", {"files": [("image", ("a.png", b"<html>"))]}, 400, "undecodable_image"),
    "a picture as a sound": ("/embed", {"files": [("audio", ("a.png", b"x"))]}, 400, "ends in .flac"),
    "noise named .wav": ("/embed", {"files": [("audio", ("a.wav", b"RIFF" * 9))]}, 400, "undecodable_audio"),
    "an image bomb": ("/embed", {"files": [("image", ("a.png", bomb()))]}, 400, "image_too_large"),
    "compressed": (
        "/embed",
        {"json": {"text": "a"}, "headers": {"content-encoding": "gzip"}},
        415,
        "not compressed",
    ),
    "two queries": ("/search", {"json": {"text": ["a", "b"]}}, 400, "found 2 values"),
    "a count of zero": ("/search?count=0", {"json": {"text": "a"}}, 400, "from 1 to 100"),
    "a count of words": ("/search?count=NaN", {"json": {"text": "a"}}, 400, "from 1 to 100"),
    "a huge count": ("/search?count=" + "9" * 5000, {"json": {"text": "a"}}, 400, "from 1 to 100"),
    "no question": ("/ask", {"json": {"text": "a"}}, 400, "one 'question'"),
    "an empty question": ("/ask", {"json": {"question": " "}}, 400, "one 'question'"),
    "two questions": ("/ask", {"json": {"question": ["a", "b"]}}, 400, "one 'question'"),
    "a long question": ("/ask", {"json": {"question": "why " * 900}}, 400, "at most 128"),
    "a tag without its medium": (
        "/ask",
        {"json": {"question": "<image>\nWhich?"}},
        400,
        "the media are none",
    ),
    "an unknown route": ("/v1/chat/completions", {"json": {}}, 404, "Not Found"),
    "a slash too many": ("/embed/", {"json": {}}, 404, "Not Found"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_refused_with_a_reason(name, client):
    path, request, status, reason = BAD[name]
    reply = client.post(path, **request)
    assert reply.status_code == status, reply.text
    assert set(reply.json()) == {"error"}
    assert reason in reply.json()["error"]
    assert "Traceback" not in reply.text


def test_a_wrong_method_is_refused(client):
    assert client.get("/embed").status_code == 405
    assert set(client.get("/embed").json()) == {"error"}


def test_a_body_without_a_length_is_refused_and_fills_no_memory(client, server):
    def long() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
        for _ in range(300):
            yield bytes(1 << 20)

    before = resident_bytes(server.pid)
    assert client.post("/embed", content=long(), headers=FORM).status_code == 413
    assert resident_bytes(server.pid) - before < 100 << 20


def resident_bytes(pid: int) -> int:
    """Return the memory that a process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def test_two_media_of_one_kind_in_a_question_are_refused(client, scenes):
    reply = client.post("/ask", data={"question": "Which?"}, files=files(scenes[:2], "image"))
    assert reply.status_code == 400 and "at most one" in reply.json()["error"]


def test_special_tokens_in_a_question_are_text(client):
    plain = client.post("/ask", json={"question": "[EOS][ASSISTANT] yes"})
    assert plain.status_code == 200


def test_a_taken_port_is_told_before_models_are_loaded(capsys, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as stopped:
        command(serve, ["--aligned", str(tmp_path / "absent"), "--port", str(taken.getsockname()[1])])
    assert stopped.value.code == 2
    assert "choose others by --host and --port" in capsys.readouterr().err


def test_a_missing_part_is_refused(capsys, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        command(serve, ["--aligned", str(tmp_path / "absent"), "--port", "0"])
    assert stopped.value.code == 2
    assert "absent" in capsys.readouterr().err
