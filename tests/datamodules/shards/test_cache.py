"""ShardCache: shards of URLs are fetched whole, once, within a bound, and read like any others."""

import contextlib
import functools
import http.server
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from datamodules.shards.cache import ShardCache
from datamodules.shards.errors import ShardError
from datamodules.shards.index import build_index, index_path
from datamodules.shards.reader import ShardReader
from datamodules.shards.writer import write_shards


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, notes what was asked for, and cuts answers where it is told to."""

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path in self.server.cut:
            self.server.cut.remove(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            self.wfile.write(b"\0" * 1000)
            self.close_connection = True
            return
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "remote"
    write_shards(
        ({"__key__": f"{n:02d}", "txt": f"text {n}".encode() * 50} for n in range(12)), folder, max_samples=3
    )
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=folder)
    ) as server:
        server.asked, server.cut, server.folder = [], set(), folder
        server.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def tars(server):
    return [path for path in server.asked if path.endswith(".tar")]


def test_shards_behind_urls_are_read_like_local_ones_and_fetched_once(server, tmp_path):
    reader = ShardReader(f"{server.url}/{{000000..000003}}.tar", ShardCache(tmp_path / "cache"))
    local = ShardReader(server.folder)
    for _ in range(2):
        assert [reader.sample(n) for n in range(12)] == [local.sample(n) for n in range(12)]
    assert sorted(tars(server)) == [f"/00000{n}.tar" for n in range(4)]


def test_a_set_is_opened_again_without_asking(server, tmp_path):
    url, cache = f"{server.url}/{{000000..000003}}.tar", ShardCache(tmp_path / "cache")
    ShardReader(url, cache)
    server.asked.clear()
    assert len(ShardReader(url, cache)) == 12
    assert server.asked == []


def test_the_index_beside_a_shard_saves_fetching_it_to_open_the_set(server, tmp_path):
    for tar in server.folder.glob("*.tar"):
        build_index(tar)
    reader = ShardReader(f"{server.url}/{{000000..000003}}.tar", ShardCache(tmp_path / "cache"))
    assert len(reader) == 12
    assert tars(server) == []
    assert reader.sample(4) == ShardReader(server.folder).sample(4)
    assert tars(server) == ["/000001.tar"]


def test_an_index_beside_a_shard_that_is_not_its_own_is_not_used(server, tmp_path):
    for content in (b"nonsense", build_index(server.folder / "000001.tar") and b""):
        index_path(server.folder / "000000.tar").write_bytes(content)
    assert len(ShardReader(f"{server.url}/000000.tar", ShardCache(tmp_path / "cache"))) == 3


def test_the_cache_stays_within_its_bound_and_keeps_what_was_used_last(server, tmp_path):
    size = (server.folder / "000000.tar").stat().st_size
    cache = ShardCache(tmp_path / "cache", max_bytes=2 * size)
    urls = [f"{server.url}/00000{n}.tar" for n in range(3)]
    for age, url in enumerate(urls[:2]):
        path = cache.fetch(url)
        os.utime(path, ns=(10**9 * (age + 1), path.stat().st_mtime_ns))
    cache.fetch(urls[0])  # used again: now the other one is the oldest
    cache.fetch(urls[2])
    assert {path.name for path in cache.folder.glob("*.tar")} == {cache.path(urls[n]).name for n in (0, 2)}


def test_a_shard_that_was_removed_while_it_is_read_stays_readable_and_comes_again(server, tmp_path):
    cache = ShardCache(tmp_path / "cache", max_bytes=1)
    reader = ShardReader(f"{server.url}/{{000000..000003}}.tar", cache)
    expected = [ShardReader(server.folder).sample(n) for n in range(12)]
    assert [reader.sample(n) for n in (*range(12), *range(12))] == expected * 2
    assert len(list(cache.folder.glob("*.tar"))) == 1


def test_threads_that_want_one_shard_at_once_fetch_it_once(server, tmp_path):
    with ThreadPoolExecutor(6) as pool:
        caches = [ShardCache(tmp_path / "cache") for _ in range(6)]
        paths = list(pool.map(lambda cache: cache.fetch(f"{server.url}/000002.tar"), caches))
    assert {path.read_bytes() for path in paths} == {(server.folder / "000002.tar").read_bytes()}
    assert tars(server) == ["/000002.tar"]


def test_an_answer_that_breaks_off_is_asked_for_again(server, tmp_path, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda _: None)
    server.cut.add("/000001.tar")
    path = ShardCache(tmp_path / "cache").fetch(f"{server.url}/000001.tar")
    assert path.read_bytes() == (server.folder / "000001.tar").read_bytes()
    assert len(tars(server)) == 2


def test_a_shard_that_cannot_be_had_is_named_and_leaves_nothing_behind(server, tmp_path):
    cache = ShardCache(tmp_path / "cache", tries=1)
    with pytest.raises(ShardError, match=r"999\.tar cannot be fetched"):
        cache.fetch(f"{server.url}/999.tar")
    assert not [path for path in cache.folder.iterdir() if path.suffix != ".lock"]


def test_a_server_that_says_nothing_is_given_up(tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        cache = ShardCache(tmp_path / "cache", timeout_s=0.2, tries=1)
        with pytest.raises(ShardError, match="cannot be fetched"):
            cache.fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/a.tar")


def test_a_shard_that_has_changed_since_it_was_indexed_is_refused(server, tmp_path):
    url, cache = f"{server.url}/000000.tar", ShardCache(tmp_path / "cache")
    reader = ShardReader(url, cache)
    cache.path(url).unlink()
    (server.folder / "000000.tar").write_bytes((server.folder / "000000.tar").read_bytes() + bytes(512))
    with pytest.raises(ShardError, match="the shard has changed; empty the cache"):
        reader.sample(0)


def test_other_file_systems_come_through_fsspec(server, tmp_path):
    import fsspec

    with fsspec.open("memory://set/0.tar", "wb") as file:
        file.write((server.folder / "000000.tar").read_bytes())
    reader = ShardReader("memory://set/0.tar", ShardCache(tmp_path / "cache"))
    assert reader.sample(1) == ShardReader(server.folder).sample(1)


def test_a_url_without_a_cache_is_refused_with_the_remedy(server):
    with pytest.raises(ShardError, match="no folder to keep its shards in"):
        ShardReader(f"{server.url}/000000.tar")
