"""Every source on a small tree of its layout."""

import json

import pytest

from datamodules.sources.class_folder import ClassFolder
from datamodules.sources.folder import Folder
from datamodules.sources.llava_json import LlavaJson
from datamodules.sources.source import Dropped, key_of
from datamodules.sources.text_lines import TextLines


def tree(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def samples_of(source):
    return {item.key: sorted(item.members) for item in source if not isinstance(item, Dropped)}


def reasons_of(source):
    return {item.name: item.reason for item in source if isinstance(item, Dropped)}


class TestFolder:
    def test_files_of_one_stem_are_one_sample_and_any_may_be_missing(self, tmp_path):
        source = Folder(
            tree(tmp_path, "b.txt", "a.jpg", "a.txt", "a.flac", "c.v2.png", "c.v2.txt", "notes.pdf")
        )
        assert samples_of(source) == {"a": ["flac", "jpg", "txt"], "b": ["txt"], "c_v2": ["png", "txt"]}
        assert len(source) == 3

    def test_folders_below_are_walked_and_hidden_files_are_not(self, tmp_path):
        source = Folder(tree(tmp_path, "x/a.jpg", "y/a.jpg", ".cache/a.jpg", "x/._a.jpg"))
        assert samples_of(source) == {"x-a": ["jpg"], "y-a": ["jpg"]}

    def test_unpaired_images_sounds_and_texts_are_samples_of_one_modality(self, tmp_path):
        source = Folder(tree(tmp_path, "photos/a.webp", "talks/b.mp3", "notes/c.txt"))
        assert list(samples_of(source).values()) == [["txt"], ["webp"], ["mp3"]]

    def test_two_images_of_one_stem_are_dropped(self, tmp_path):
        source = Folder(tree(tmp_path, "a.jpg", "a.png", "b.jpg"))
        assert (samples_of(source), reasons_of(source)) == (
            {"b": ["jpg"]},
            {"a": "several files of one modality"},
        )

    def test_files_of_a_modality_of_ones_own_are_members_once_named(self, tmp_path):
        raw = tree(tmp_path, "a.imu", "a.txt", "b.IMU", "c.imu", "c.raw")
        assert samples_of(Folder(raw)) == {"a": ["txt"]}
        source = Folder(raw, suffixes={"imu": ["imu", "raw"]})
        assert samples_of(source) == {"a": ["imu", "txt"], "b": ["imu"]}
        assert reasons_of(source) == {"c": "several files of one modality"}


@pytest.mark.parametrize("source", [Folder, ClassFolder, LlavaJson])
@pytest.mark.parametrize(
    ("suffixes", "message"),
    [
        ({"points": ["npy"]}, "names 'npy', which cannot stand in a shard"),
        ({"points": [".bin"]}, "names '.bin', which cannot stand in a shard"),
        ({"points": ["BIN"]}, "names 'BIN', which cannot stand in a shard"),
        ({"points": ["jpg"]}, "names 'jpg', which is of image"),
        ({"points": ["bin"], "imu": ["bin"]}, "names 'bin', which is of points"),
    ],
)
def test_suffixes_that_cannot_be_members_are_refused(tmp_path, source, suffixes, message):
    with pytest.raises(ValueError, match=message):
        source(tmp_path, suffixes=suffixes)


@pytest.mark.parametrize(("source", "suffix"), [(ClassFolder, "cls"), (LlavaJson, "json")])
def test_a_suffix_that_the_source_writes_itself_is_refused(tmp_path, source, suffix):
    with pytest.raises(ValueError, match=f"names '{suffix}', which is of the source itself"):
        source(tmp_path, suffixes={"notes": [suffix]})


class TestClassFolder:
    def test_files_of_a_modality_of_ones_own_have_a_class_once_named(self, tmp_path):
        source = ClassFolder(tree(tmp_path, "walking/1.imu", "running/2.imu"), suffixes={"imu": ["imu"]})
        assert samples_of(source) == {"running-2": ["cls", "imu"], "walking-1": ["cls", "imu"]}

    def test_the_folder_is_the_class(self, tmp_path):
        source = ClassFolder(tree(tmp_path, "zero/1.png", "one/1.flac", "one/deep/2.flac", "stray.png"))
        classes = {item.key: item.members["cls"] for item in source}
        assert classes == {"one-1": b"one", "one-deep-2": b"one", "zero-1": b"zero"}
        assert source.report(tmp_path) == {"classes": ["one", "zero"]}


class TestTextLines:
    def test_each_line_is_a_sample(self, tmp_path):
        (tmp_path / "t.txt").write_bytes("first\r\nsecond é\n".encode())
        items = list(TextLines(tmp_path / "t.txt"))
        assert [(item.key, item.members["txt"].decode()) for item in items] == [
            ("t-00000001", "first"),
            ("t-00000002", "second é"),
        ]

    def test_a_folder_of_files_is_read_in_order(self, tmp_path):
        for name in ("b", "a"):
            (tmp_path / f"{name}.txt").write_text(f"{name}\n")
        assert list(samples_of(TextLines(tmp_path))) == ["a-00000001", "b-00000001"]


def turns(*values):
    return [{"from": ("human", "gpt")[index % 2], "value": value} for index, value in enumerate(values)]


GOOD = {"id": "7", "task": "t", "image": "m/a.jpg", "conversations": turns("<image>\nWhat?", "this")}


@pytest.fixture
def llava(tmp_path):
    tree(tmp_path, "m/a.jpg", "m/a.flac", "outside.jpg")

    def build(*records, text=None, **arguments):
        path = tmp_path / "train.json"
        path.write_text(json.dumps(records) if text is None else text, encoding="utf-8")
        return LlavaJson(path, **arguments)

    return build


class TestLlavaJson:
    def test_a_record_keeps_its_turns_and_loses_its_paths(self, llava):
        record = GOOD | {"audio": "m/a.flac", "conversations": turns("<image><audio> Same?", "yes")}
        [sample] = llava(record)
        assert sorted(sample.members) == ["flac", "jpg", "json"]
        assert json.loads(sample.members["json"]) == {
            "id": "7", "task": "t", "conversations": turns("<image><audio> Same?", "yes")
        }  # fmt: skip

    def test_text_alone_is_a_sample(self, llava):
        assert samples_of(llava({"id": "x", "conversations": turns("Hi?", "Hello.")})) == {"x": ["json"]}

    def test_missing_and_repeated_ids_become_different_ones(self, llava):
        source = llava(GOOD, GOOD, {key: value for key, value in GOOD.items() if key != "id"})
        assert len(samples_of(source)) == 3

    def test_lines_of_json_with_a_mark_are_read(self, llava):
        source = llava(text="\ufeff" + "\n".join([json.dumps(GOOD)] * 2))
        assert len(samples_of(source)) == 2

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"conversations": turns("What?", "this")}, "<image> tags and image files differ in number"),
            (
                {"conversations": turns("<image><image>", "this")},
                "<image> tags and image files differ in number",
            ),
            ({"conversations": turns("<image>", "<image>")}, "<image> tags and image files differ in number"),
            ({"image": ["m/a.jpg", "m/a.jpg"]}, "several image files"),
            ({"image": "m/b.jpg"}, "image not found"),
            ({"image": "../secret.jpg"}, "image lies outside its folder"),
            ({"image": "/etc/passwd"}, "image lies outside its folder"),
            ({"image": "https://host/a.jpg"}, "image is a URL"),
            ({"image": 3}, "image is not a path"),
            ({"conversations": None}, "no conversation"),
            ({"conversations": turns("<image>")}, "turns do not alternate from human to gpt"),
            ({"conversations": turns("<image>", "this")[::-1]}, "turns do not alternate from human to gpt"),
            ({"conversations": [{"from": "system", "value": "<image>"}]}, "unknown role"),
            ({"conversations": turns("<image>", " ")}, "empty turn"),
            ({"conversations": turns("<image>", 3)}, "turn without text"),
            ({"video": "m/a.mp4"}, "video in a conversation"),
            ({"image": "\ud800.jpg"}, "image not found"),
            ({"image": "a" * 300 + ".jpg"}, "image not found"),
        ],
    )
    def test_a_bad_record_is_dropped_with_its_reason(self, llava, change, reason):
        source = llava(GOOD | change, GOOD)
        assert reasons_of(source) == {"record 0": reason}
        assert len(samples_of(source)) == 1

    def test_a_modality_of_ones_own_has_its_field_and_its_tag(self, llava, tmp_path):
        tree(tmp_path, "m/a.imu", "m/a.mp4")
        asked = {"id": "7", "imu": "m/a.imu", "conversations": turns("<imu>\nWhat?", "this")}
        untagged = asked | {"conversations": turns("What?", "this")}
        source = llava(asked, untagged, suffixes={"imu": ["imu"]})
        assert samples_of(source) == {"7": ["imu", "json"]}
        assert reasons_of(source) == {"record 1": "<imu> tags and imu files differ in number"}
        film = {"id": "8", "video": "m/a.mp4", "conversations": turns("<video>\nWhat?", "this")}
        assert samples_of(llava(film, suffixes={"video": ["mp4"]})) == {"8": ["json", "mp4"]}

    def test_messages_of_role_and_content_are_read(self, llava):
        messages = [{"role": "user", "content": "<image>\nWhat?"}, {"role": "assistant", "content": "this"}]
        [sample] = llava({"id": "7", "image": "m/a.jpg", "messages": messages})
        assert json.loads(sample.members["json"])["conversations"] == GOOD["conversations"]

    def test_a_bad_line_or_element_costs_itself_alone(self, llava):
        assert reasons_of(llava(GOOD, "a", None)) == {
            "record 1": "record is not an object", "record 2": "record is not an object"
        }  # fmt: skip
        source = llava(text=f'{json.dumps(GOOD)}\n{{"id": 1,}}\n[{"[" * 100_000}\n{json.dumps(GOOD)}')
        assert reasons_of(source) == {"record 1": "line is not JSON", "record 2": "line is not JSON"}
        assert len(samples_of(source)) == 2

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (json.dumps({"data": []}), "no record with `conversations`"),
            ('["a", "b"]', "no record with `conversations`"),
            ('[{"id": 1,}]', "train.json cannot be read .* at character (9|10);"),
            ("[" * 100_000, "too deeply"),
            ('[{"id": "\udcff"}]', "is not UTF-8"),
            ('[{"id": 1}', "train.json ends at character 10"),
        ],
    )
    def test_what_is_not_a_list_of_records_is_refused(self, llava, tmp_path, text, message):
        (tmp_path / "train.json").write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(ValueError, match=message):
            LlavaJson(tmp_path / "train.json").check()

    def test_media_root_is_what_paths_are_relative_to(self, llava, tmp_path):
        assert len(samples_of(llava(GOOD | {"image": "a.jpg"}, media_root=tmp_path / "m"))) == 1
        assert reasons_of(llava(GOOD, media_root=tmp_path / "m")) == {"record 0": "image not found"}
        with pytest.raises(FileNotFoundError, match="media_root"):
            llava(GOOD, media_root=tmp_path / "nowhere").check()


@pytest.mark.parametrize("source_class", [Folder, ClassFolder, TextLines])
def test_missing_and_empty_sources_are_refused(source_class, tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        source_class(tmp_path / "nowhere").check()
    (tmp_path / "readme.md").write_text("x")
    with pytest.raises(FileNotFoundError, match="found nothing to prepare"):
        source_class(tmp_path).check()


def test_fingerprint_changes_with_the_files(tmp_path):
    source = Folder(tree(tmp_path, "a.jpg", "b.jpg"))
    before = source.fingerprint()
    assert source.fingerprint() == before
    tree(tmp_path, "c.jpg")
    assert source.fingerprint() != before


def test_keys_hold_no_dots_and_no_slashes():
    assert key_of("x/y.z é-1") == "x-y_z__-1"
