"""The hub: a command that needs it asks once whether it answers, and does not wait where it does not."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from huggingface_hub import constants

from stages.planning import hub

CONFIG = {"encoders": [{"text": {"init_args": {"name_or_path": "nobody/nothing", "max_tokens": 8}}}]}


@pytest.fixture(autouse=True)
def online(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def test_where_the_hub_is_silent_its_cache_is_taken(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    said = hub.offline_unless_it_answers(CONFIG)
    assert "nobody/nothing" in said and "did not answer" in said
    assert constants.HF_HUB_OFFLINE


def test_any_answer_of_the_hub_is_one(monkeypatch):
    class Refusing(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(403)

        def log_message(self, *_) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        assert hub.offline_unless_it_answers(CONFIG) is None
        thread.join()
    assert not constants.HF_HUB_OFFLINE


def test_the_hub_is_not_asked_where_no_model_is_of_it(monkeypatch, tmp_path):
    monkeypatch.setattr(hub, "_answers", lambda _: pytest.fail("the hub was asked"))
    assert (
        hub.offline_unless_it_answers({"name_or_path": str(tmp_path), "other": [{"name_or_path": None}]})
        is None
    )
