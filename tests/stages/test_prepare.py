"""`prepare` as users call it: what is written, what is skipped, what is refused."""

import hashlib
import io
import json
import tarfile

import pytest
import soundfile
import yaml
from PIL import Image

from stages.cli import command
from stages.prepare.inspect import inspect
from stages.prepare.prepare import listing, prepare


def jpeg(colour):
    file = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(file, "JPEG")
    return file.getvalue()


def flac(frequency):
    file = io.BytesIO()
    soundfile.write(file, [0.1 * ((n * frequency) % 2) for n in range(1600)], 16_000, format="FLAC")
    return file.getvalue()


@pytest.fixture
def raw(tmp_path):
    """Seven samples side by side: one whole, one without sound, one without image, and four that are no good."""
    folder = tmp_path / "raw"
    folder.mkdir()
    files = {
        "a.jpg": jpeg("red"), "a.txt": b"red\n", "a.flac": flac(3),
        "b.jpg": jpeg("blue"), "b.txt": b"blue\n",
        "c.txt": b"green\n", "c.flac": flac(5),
        "d.jpg": jpeg("red")[:100], "d.txt": b"cut\n",
        "e.jpg": jpeg("blue"), "e.txt": b"blue\n",
        "f.txt": b"\n",
        "g.txt": b"caf\xe9\n",
    }  # fmt: skip
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def config(tmp_path, raw):
    """A config file with one set, `scenes`."""
    return written(tmp_path, raw)


def written(tmp_path, raw, **source):
    cleaning = "datamodules.preparation.cleaning"
    filters = [
        {"class_path": f"{cleaning}.{name}"}
        for name in ("media.Undecodable", "texts.EmptyText", "duplicates.ExactDuplicates")
    ]
    folder = {"class_path": "datamodules.sources.folder.Folder", "init_args": {"path": str(raw)}}
    content = {
        "out": str(tmp_path / "out"),
        "sets": {"scenes": {"source": folder, "filters": filters, **source}},
    }
    path = tmp_path / "prepare.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def run(*args):
    command(prepare, args=[str(arg) for arg in args])


def refused(capsys, *args):
    """Run what must be refused and return the message."""
    with pytest.raises(SystemExit) as refusal:
        run(*args)
    assert refusal.value.code == 2
    return capsys.readouterr().err


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def test_shards_hold_the_good_samples_and_the_manifest_counts_them(config, tmp_path):
    run("--config", config)
    folder = tmp_path / "out" / "scenes"
    with tarfile.open(folder / "000000.tar") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    assert sorted(members) == ["a.flac", "a.jpg", "a.txt", "b.jpg", "b.txt", "c.flac", "c.txt"]
    assert (members["a.jpg"], members["b.txt"]) == (jpeg("red"), b"blue")

    manifest = manifest_of(folder)
    [shard] = manifest["shards"]
    assert manifest["samples"] == shard["samples"] == 3
    assert manifest["members"] == {"flac": 2, "jpg": 2, "txt": 3}
    assert shard["sha256"] == hashlib.sha256((folder / shard["name"]).read_bytes()).hexdigest()
    assert (folder / "000000.tar.index").is_file()


def test_what_is_dropped_is_counted_and_named_in_the_manifest_and_on_screen(config, tmp_path, capsys):
    run("--config", config)
    manifest = manifest_of(tmp_path / "out" / "scenes")
    names = {
        "undecodable image": ["d"],
        "exact duplicate": ["e"],
        "empty text": ["f"],
        "text is not UTF-8": ["g"],
    }
    assert manifest["dropped_names"] == names
    assert manifest["dropped"] == dict.fromkeys(names, 1)
    assert "scenes: undecodable image: d" in capsys.readouterr().out


def test_two_runs_write_the_same_bytes(config, tmp_path):
    run("--config", config, "--out", tmp_path / "one", "--workers", 1)
    run("--config", config, "--out", tmp_path / "two", "--workers", 2)
    for name in ("000000.tar", "manifest.json"):
        assert (tmp_path / "one/scenes" / name).read_bytes() == (tmp_path / "two/scenes" / name).read_bytes()


def test_a_prepared_set_is_left_alone(config, tmp_path, capsys):
    run("--config", config)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out/scenes").iterdir()}
    capsys.readouterr()
    run("--config", config)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "out/scenes").iterdir()} == before
    assert "already prepared" in capsys.readouterr().out


def test_another_config_in_the_same_folder_is_refused(config, tmp_path, raw, capsys):
    run("--config", config)
    message = refused(capsys, "--config", written(tmp_path, raw, filters=[]))
    assert "filters: found" in message
    assert "Remove the folder" in message


def test_other_files_in_the_source_are_refused(config, raw, capsys):
    run("--config", config)
    (raw / "h.txt").write_text("one more")
    assert "files: found" in refused(capsys, "--config", config)


def test_a_folder_that_is_no_set_is_refused(config, tmp_path, capsys):
    (tmp_path / "out/scenes").mkdir(parents=True)
    (tmp_path / "out/scenes/mine.txt").write_text("precious")
    assert "without a manifest.json" in refused(capsys, "--config", config)


def test_a_missing_source_is_refused_before_any_set_is_begun(config, tmp_path, capsys):
    content = yaml.safe_load(config.read_text())
    lines = {
        "class_path": "datamodules.sources.text_lines.TextLines",
        "init_args": {"path": str(tmp_path / "no.txt")},
    }
    content["sets"]["text"] = {"source": lines}
    config.write_text(yaml.safe_dump(content))
    message = refused(capsys, "--config", config)
    assert message.count("error:") == 1
    assert "no.txt does not exist" in message
    assert not (tmp_path / "out").exists()


def test_an_empty_source_is_refused(tmp_path, capsys):
    (tmp_path / "raw").mkdir()
    args = ["--out", tmp_path / "out", "--one.source", "Folder", "--one.source.path", tmp_path / "raw"]
    assert "found nothing to prepare" in refused(capsys, *args)


def test_a_source_without_a_good_sample_is_refused_and_leaves_no_set(tmp_path, capsys):
    (tmp_path / "a.jpg").write_bytes(b"<html>")
    args = ["--out", tmp_path / "out", "--one.source", "Folder", "--one.source.path", tmp_path]
    assert "undecodable image" in refused(capsys, *args)
    assert not (tmp_path / "out").exists()


def test_an_unfinished_set_is_begun_anew(config, tmp_path):
    leftover = tmp_path / "out" / ".scenes.unfinished"
    leftover.mkdir(parents=True)
    (leftover / "000007.tar").write_bytes(b"half")
    run("--config", config)
    assert not leftover.exists()
    assert not (tmp_path / "out/scenes/000007.tar").exists()


def test_one_set_needs_no_config_file(tmp_path):
    for name, colour in (("zero", "red"), ("one", "blue")):
        (tmp_path / "raw" / name).mkdir(parents=True)
        (tmp_path / "raw" / name / "1.jpg").write_bytes(jpeg(colour))
    out = tmp_path / "digits"
    run("--out", out, "--one.source", "ClassFolder", "--one.source.path", tmp_path / "raw")
    assert manifest_of(out)["classes"] == ["one", "zero"]
    with tarfile.open(out / "000000.tar") as tar:
        assert tar.extractfile("zero-1.cls").read() == b"zero"


def test_names_that_make_the_same_key_stay_apart(tmp_path):
    (tmp_path / "raw").mkdir()
    for name in ("a.b.txt", "a_b.txt", "a b.txt"):
        (tmp_path / "raw" / name).write_text(name)
    run("--out", tmp_path / "out", "--one.source", "Folder", "--one.source.path", tmp_path / "raw")
    with tarfile.open(tmp_path / "out/000000.tar") as tar:
        assert len({member.name for member in tar}) == 3


def test_long_texts_are_cut_where_the_config_says_so(tmp_path, raw):
    (raw / "long.txt").write_text("One sentence. " * 20)
    run("--config", written(tmp_path, raw, chunk={"text": {"length": 60, "overlap": 15}}))
    manifest = manifest_of(tmp_path / "out/scenes")
    assert manifest["made_from"]["chunk"]["init_args"]["text"]["init_args"]["length"] == 60
    with tarfile.open(tmp_path / "out/scenes/000000.tar") as tar:
        names = {member.name for member in tar}
    assert {"long-c000.txt", "long-c001.txt", "long-c001.chunk.json", "a.txt"} <= names
    assert "a.chunk.json" not in names


def test_other_chunks_or_sizes_make_another_set(config, tmp_path, raw, capsys):
    run("--config", config)
    message = refused(capsys, "--config", written(tmp_path, raw, chunk={"sound": {"seconds": 5}}))
    assert "prepared otherwise: chunk: found None" in message
    assert "max_bytes: found" in refused(capsys, "--config", written(tmp_path, raw, max_bytes=5))


def test_settings_that_cannot_work_are_refused(tmp_path, raw, capsys):
    assert "at least 1" in refused(capsys, "--config", written(tmp_path, raw, max_samples=0))
    assert "half of" in refused(capsys, "--config", written(tmp_path, raw, chunk={"text": {"overlap": 1500}}))
    assert "expected engine ray" in refused(capsys, "--config", written(tmp_path, raw), "--address", "auto")


def inspected(capsys, *args):
    command(inspect, args=[str(arg) for arg in args], as_positional=True)
    return capsys.readouterr().out


def test_inspect_tells_what_is_in_shards_and_what_the_manifest_says(config, tmp_path, capsys):
    run("--config", config)
    capsys.readouterr()
    told = inspected(capsys, tmp_path / "out/scenes")
    for line in (
        "3 samples in 1 shards",
        "1 samples have flac jpg txt",
        ".flac: 0.1 to 0.1 s (median 0.1) long",
        "dropped: exact duplicate: 1, e",
        "filters: Undecodable, EmptyText, ExactDuplicates",
    ):
        assert line in " ".join(told.split()), told
    found = json.loads(inspected(capsys, tmp_path / "out/scenes", "--as_json", "true"))
    assert found["samples"] == 3 == found["members"]["txt"]["count"]
    assert found["manifests"][str(tmp_path / "out/scenes")]["dropped"]["empty text"] == 1


def test_inspect_tells_the_problems_of_shards_of_others(tmp_path, capsys):
    with tarfile.open(tmp_path / "theirs.tar", "w") as tar:
        for name, data in {"a.pkl": b"code", "a.jpg": b"no picture", "b.txt": b"text"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    told = " ".join(inspected(capsys, tmp_path / "theirs.tar").split())
    assert "problem: unsafe_member: 1 left out, the first a.pkl" in told
    assert "problem: unreadable header: 1 left out, the first a.jpg" in told
    assert "no manifest" in told


def test_inspect_refuses_a_folder_without_shards(tmp_path, capsys):
    with pytest.raises(SystemExit) as refusal:
        inspected(capsys, tmp_path)
    assert refusal.value.code == 2
    assert "holds no .tar" in capsys.readouterr().err


def test_help_lists_sources_filters_and_steps(capsys):
    with pytest.raises(SystemExit):
        command(prepare, args=["--help"], epilog=listing())
    told = " ".join(capsys.readouterr().out.split())
    sources = told.partition("Sources: ")[2].partition(";")[0].split(", ")
    filters = told.partition("Filters: ")[2].partition(";")[0].split(", ")
    steps = told.partition("Steps: ")[2].partition(". ")[0].split(", ")
    assert {"Folder", "CocoCaptions", "Ego4D", "VoxCeleb"} <= set(sources)
    assert {"EmptyText", "ExactDuplicates", "TextLength", "NearDuplicateImages"} <= set(filters)
    assert {"FeatureCache", "LowSimilarity", "WeakCaptions"} <= set(steps)
    assert "stages.prepare inspect SHARDS" in told


def test_preparing_imports_neither_torch_nor_lightning():
    import subprocess
    import sys

    heavy = {"torch", "lightning", "librosa", "av", "ray", "webdataset"}
    code = f"import stages.prepare.__main__, sys; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
