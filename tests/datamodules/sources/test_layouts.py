"""Every layout with annotation files: what becomes of a small tree of it."""

import importlib
import json
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from datamodules.sources.source import Source

ROOT = Path(__file__).parents[3]

UID = "001e3e4e-2743-47fc-8564-d5efd11f9e90"


def text_in(members):
    return members["txt"].decode() if isinstance(members["txt"], bytes) else members["txt"].read_text()


def about(members):
    return json.loads(members["json"] if isinstance(members["json"], bytes) else members["json"].read_bytes())


class TestCocoCaptions:
    def test_each_caption_is_a_sample_with_the_image(self, layout, outcome):
        samples, dropped = outcome(layout("coco"))
        assert {key: text_in(members) for key, members in samples.items()} == {
            "000000391895-0": "A man with a red helmet.", "000000391895-1": "Man riding a motor bike."
        }  # fmt: skip
        assert samples["000000391895-0"]["jpg"] == samples["000000391895-1"]["jpg"]
        assert about(samples["000000391895-1"])["caption_id"] == 771687
        assert dropped == {
            "image not found": ["image 522418"],
            "no caption": ["image 184613, caption 0"],
            "captions of an image that is not listed": ["image 9"],
        }

    def test_first_keeps_the_others_in_the_metadata(self, layout, outcome):
        samples, _ = outcome(replace(layout("coco"), captions="first"))
        [(key, members)] = samples.items()
        assert (key, text_in(members)) == ("000000391895", "A man with a red helmet.")
        assert about(members)["captions"] == ["A man with a red helmet.", "Man riding a motor bike."]

    def test_a_file_of_something_else_is_refused(self, layout):
        source = layout("coco")
        source.annotation_file().write_text('{"images": [{"id": 1}], "categories": []}')
        with pytest.raises(ValueError, match=r"holds no `annotations`; found images, categories"):
            source.check()


class TestVisualQuestions:
    def test_the_answer_given_most_often_is_said_and_all_are_kept(self, layout, outcome):
        samples, dropped = outcome(layout("visual_questions"))
        record = about(samples["458752000"])
        assert record["conversations"] == [
            {"from": "human", "value": "<image>\nWhat is this 458752000?"}, {"from": "gpt", "value": "net"}
        ]  # fmt: skip
        assert record["answers"] == ["net", "net", "fence", "net"]
        assert samples["458752000"]["jpg"].name == "COCO_train2014_000000458752.jpg"
        assert dropped == {"image not found": ["question 2"], "question without an answer": ["question 3"]}

    def test_an_instruction_follows_the_question(self, layout, outcome):
        samples, _ = outcome(replace(layout("visual_questions"), instruction="One word."))
        assert about(samples["458752001"])["conversations"][0]["value"].endswith("458752001?\nOne word.")

    def test_annotations_of_another_type_are_dropped(self, layout, outcome):
        source = layout("visual_questions")
        file = source.annotation_files()["annotations"]
        content = json.loads(file.read_text())
        content["annotations"] += [
            "x",
            None,
            {"question_id": 1, "answers": 7},
            {"question_id": 2, "answers": ["x"]},
        ]
        file.write_text(json.dumps(content))
        samples, dropped = outcome(source)
        assert len(samples) == 2
        assert dropped["no question_id"] == ["annotation 3", "annotation 4"]
        assert dropped["no answer"] == ["annotation 5", "annotation 6"]

    def test_instruct_reads_what_it_makes(self, layout, outcome):
        from datamodules.modalities.conversation import Conversation
        from datamodules.preparation.tokenizer import train_tokenizer

        samples, _ = outcome(layout("visual_questions"))
        formats = {"user": "u {}", "assistant": "a {}"}
        conversation = Conversation(train_tokenizer(["what is this"], 300), 200, ["image"], formats)
        turns = conversation.decode(samples["458752000"]["json"], "json")
        assert [turn.role for turn in turns] == ["user", "assistant"]


class TestImageNet:
    def test_folders_bear_the_names_of_the_mapping_and_equal_ones_stay_apart(self, layout, outcome, tmp_path):
        source = layout("imagenet")
        samples, _ = outcome(source)
        assert {key: members["cls"].decode() for key, members in samples.items()} == {
            "n01440764-n01440764_10026": "tench, Tinca tinca",
            "n02012849-n02012849_1": "crane (n02012849)",
            "n03126707-n03126707_1": "crane (n03126707)",
        }
        assert all("jpeg" in members for members in samples.values())
        assert source.report(tmp_path)["classes"] == [
            "tench, Tinca tinca", "crane (n02012849)", "crane (n03126707)"
        ]  # fmt: skip

    def test_a_mapping_of_other_folders_is_refused(self, layout):
        source = layout("imagenet")
        source.names.write_text("n99999999 something\n")
        with pytest.raises(ValueError, match="names none of the folders"):
            source.check()


class TestOpenImages:
    def test_labels_that_people_verified_are_the_text(self, layout, outcome):
        samples, dropped = outcome(layout("open_images"))
        [(key, members)] = samples.items()
        assert (key, text_in(members)) == ("000002b66c9c498e", "Person, Tap, faucet")
        assert about(members) == {
            "labels": ["Person", "Tap, faucet"], "absent": ["Apple"], "originalurl": "https://a/b.jpg",
            "license": "https://cc/by/2.0/", "author": "Ann, B", "title": "T", "rotation": "0.0",
        }  # fmt: skip
        assert dropped == {
            "no label is in the image": ["000002b97e5471a0"], "image not found": ["000002c707c9895e"]
        }  # fmt: skip

    def test_rows_of_an_image_that_lie_apart_do_not_make_two_samples(self, layout, outcome):
        source = layout("open_images")
        with source.tables()["labels"].open("a") as file:
            file.write("000002b66c9c498e,verification,/m/014j1m,1\n")
        samples, dropped = outcome(source)
        assert (len(samples), dropped["rows of one image lie apart"]) == (1, ["000002b66c9c498e"])


class TestLocalizedNarratives:
    def test_the_voice_goes_with_the_image_where_it_is_there(self, layout, outcome):
        samples, dropped = outcome(layout("localized_narratives"))
        assert sorted(samples["000002b66c9c498e-93"]) == ["jpg", "json", "ogg", "txt"]
        assert sorted(samples["000002b97e5471a0-2"]) == ["jpg", "json", "txt"]
        assert text_in(samples["000002b97e5471a0-2"]) == "A bus."
        assert list(dropped) == ["image lies outside its folder"]


class TestLibriSpeech:
    def test_words_and_speaker_go_with_the_sound(self, layout, outcome):
        samples, dropped = outcome(layout("librispeech"))
        [(key, members)] = samples.items()
        assert (key, text_in(members)) == ("19-198-0000", "NORTHANGER ABBEY")
        assert about(members) == {
            "speaker": "19", "chapter": "198", "sex": "F", "subset": "train-clean-100", "minutes": "25.19",
            "name": "Kara | Shallenberg",
        }  # fmt: skip
        assert dropped == {
            "sound not found": ["19-198.trans.txt:2"],
            "no words": ["19-198.trans.txt:3"],
            "sound without words": ["198/19-198-0002"],
        }

    def test_words_in_lower_case_if_asked_for(self, layout, outcome):
        samples, _ = outcome(replace(layout("librispeech"), is_lower_case=True))
        assert text_in(samples["19-198-0000"]) == "northanger abbey"


class TestVoxCeleb:
    def test_the_speaker_is_the_class(self, layout, outcome, tmp_path):
        source = layout("voxceleb")
        samples, dropped = outcome(source)
        assert {key: members["cls"].decode() for key, members in samples.items()} == {
            "dev-aac-id00012-21Uxsk56VDQ-00001": "id00012", "wav-id10001-1zcIwhmdeo4-00001": "id10001"
        }  # fmt: skip
        assert about(samples["wav-id10001-1zcIwhmdeo4-00001"]) == {
            "speaker": "id10001", "video": "1zcIwhmdeo4", "vggface1 id": "A.J._Buckley", "gender": "m",
            "nationality": "Ireland", "set": "dev",
        }  # fmt: skip
        assert about(samples["dev-aac-id00012-21Uxsk56VDQ-00001"])["gender"] == "m"
        assert source.report(tmp_path) == {"classes": ["id00012", "id10001"]}
        assert not dropped

    def test_an_m4a_that_is_none_is_dropped_in_the_worker(self, layout, outcome):
        samples, dropped = outcome(layout("voxceleb"), expand=True)
        assert list(samples) == ["wav-id10001-1zcIwhmdeo4-00001"]
        assert list(dropped) == ["undecodable sound"]


class TestAudioSet:
    def test_display_names_are_the_text_of_clips_under_any_usual_name(self, layout, outcome):
        samples, dropped = outcome(layout("audio_set"))
        assert {key: text_in(members) for key, members in samples.items()} == {
            "--PJHxphWEs_30": "Speech, Gush", "--ZhevVpy1s_50": "Toothbrush, electric"
        }  # fmt: skip
        assert about(samples["--PJHxphWEs_30"])["mids"] == ["/m/09x0r", "/t/dd00088"]
        assert dropped == {
            "sound not found": ["balanced_train_segments.csv:6"],
            "label without a name": ["balanced_train_segments.csv:7"],
        }


class TestAudioCaps:
    def test_a_stray_quote_and_a_caption_of_two_lines_are_read(self, layout, outcome):
        samples, dropped = outcome(layout("audio_caps"))
        assert {key: text_in(members) for key, members in samples.items()} == {
            "91139": "A woman talks nearby as water pours",
            "58146": "Multiple clanging,\nand clanking sounds",
            "11542": 'A stray " mark',
        }
        assert dropped == {"malformed YouTube id": ["train.csv:6"]}


class TestEgo4D:
    def test_narrations_become_sentences(self, layout, outcome):
        samples, dropped = outcome(layout("ego4d"))
        assert [text_in(members) for members in samples.values()] == [
            "the camera wearer picks a bag from the floor", "A man X hands the camera wearer the cup."
        ]  # fmt: skip
        assert about(samples[f"{UID}-2"]) == {
            "video_uid": UID, "timestamp_s": 1.6, "pass": "narration_pass_1", "annotation_uid": "b4a3"
        }  # fmt: skip
        assert dropped == {
            "unsure narration": [f"{UID}, narration 1"],
            "malformed time": [f"{UID}, narration 3"],
            "video without narrations": ["002ad105-bd9a-4858-953e-54e88dc7587e"],
        }

    def test_the_older_file_without_videos_is_read_as_well(self, layout, outcome):
        source = layout("ego4d")
        expected, _ = outcome(source)
        content = json.loads(source.narration_file().read_text())["videos"]
        source.narration_file().write_text(json.dumps(content))
        assert outcome(source)[0] == expected

    def test_a_list_instead_of_videos_is_refused(self, layout):
        source = layout("ego4d")
        source.narration_file().write_text('{"videos": [[], {}, null]}')
        with pytest.raises(ValueError, match=r"narration\.json holds no video"):
            source.check()


class TestConll:
    def tags(self, samples):
        return [
            [tuple(line.split("\t")) for line in members["conll"].decode().splitlines()]
            for members in samples.values()
        ]

    def test_entities_begin_with_b_also_where_the_file_says_i(self, layout, outcome, tmp_path):
        source = layout("conll")
        samples, dropped = outcome(source)
        assert not dropped
        assert self.tags(samples) == [
            [("EU", "B-ORG"), ("rejects", "O"), ("German", "B-MISC"), ("call", "O"), (".", "O")],
            [("Peter", "B-PER"), ("Blackburn", "I-PER")],
            [("Leeds", "B-ORG"), ("York", "B-ORG")],
        ]
        assert [text_in(members) for members in samples.values()] == [
            "EU rejects German call .", "Peter Blackburn", "Leeds York"
        ]  # fmt: skip
        assert list(samples) == ["eng_train-00000003", "eng_train-00000009", "eng_train-00000012"]
        assert source.report(tmp_path) == {"entities": ["MISC", "ORG", "PER"], "pictures_not_found": 0}

    def test_a_sentence_goes_with_its_picture_or_without_where_that_is_not_there(
        self, layout, outcome, tmp_path
    ):
        source = layout("tweets")
        samples, dropped = outcome(source)
        assert [sorted(members) for members in samples.values()] == [
            ["conll", "jpg", "txt"], ["conll", "png", "txt"], ["conll", "txt"]
        ]  # fmt: skip
        assert samples["train_txt-00000001"]["jpg"].name == "1015799.jpg"
        assert text_in(samples["train_txt-00000008"]) == "Austin é"
        assert source.report(tmp_path) == {"entities": ["LOC", "PER"], "pictures_not_found": 1}
        assert not dropped

    def test_other_schemes_become_bio(self, layout, outcome):
        source = layout("tweets")
        tags = ["S-A", "B-A", "I-A", "E-A", "U-A", "B-A", "L-A", "O", "I-A", "I-B", "B-B"]
        (source.path / "train.txt").write_text("".join(f"w\t{tag}\n" for tag in tags))
        samples, _ = outcome(source)
        [found] = self.tags(samples)
        assert [tag for _, tag in found] == [
            "B-A", "B-A", "I-A", "I-A", "B-A", "B-A", "I-A", "O", "B-A", "B-B", "B-B"
        ]  # fmt: skip

    def test_a_bad_line_costs_its_sentence_alone_and_is_named(self, layout, outcome, monkeypatch):
        from datamodules.sources import conll

        monkeypatch.setattr(conll, "MAX_WORDS", 4)
        source = layout("tweets")
        good = b"fine\tO\n\n"
        bad = [
            b"a\tO\nb\n\n", b"a\tb\tO\n\n", b"\tO\n\n", b"a\tPER\n\n", b"a\tB-\n\n", b"a\tO\n\xff\tO\n\n",
            b"IMGID:../../etc/passwd\na\tO\n\n", b"IMGID:9\n\n", b"a\tO\n" * 5 + b"\n",
        ]  # fmt: skip
        (source.path / "train.txt").write_bytes(good + good.join(bad) + good)
        samples, dropped = outcome(source)
        assert len(samples) == len(bad) + 1
        assert dropped == {
            "line with another number of columns": ["train.txt:4", "train.txt:8"],
            "no word": ["train.txt:12"],
            "malformed tag": ["train.txt:16", "train.txt:20"],
            "line is not UTF-8": ["train.txt:25"],
            "malformed identifier of a picture": ["train.txt:29"],
            "picture without words": ["train.txt:34"],
            "sentence of more than 4 words": ["train.txt:42"],
        }

    def test_a_file_of_something_else_and_a_missing_one_are_refused(self, layout):
        source = layout("tweets")
        (source.path / "train.txt").write_text("Once upon a time.\n\nThere was.\n")
        with pytest.raises(ValueError, match=r"train\.txt should hold a line per word.*malformed tag"):
            source.check()
        with pytest.raises(FileNotFoundError, match=r"dev\.txt is not there.*`file` names"):
            replace(source, file=Path("dev.txt")).check()
        with pytest.raises(FileNotFoundError, match="`images` names"):
            replace(layout("tweets", at="again"), images=Path("photos")).check()

    def test_damage_of_any_kind_never_ends_in_a_crash(self, layout, outcome):
        import random

        source = layout("tweets")
        whole = (source.path / "train.txt").read_bytes()
        for seed in range(100):
            draw = random.Random(seed)
            data = bytearray(whole)
            for _ in range(draw.randint(1, 8)):
                data[draw.randrange(len(data))] = draw.randrange(256)
            (source.path / "train.txt").write_bytes(data[: draw.randint(1, len(data))])
            for made in source:
                assert made.name.startswith("train.txt")


class TestTextTable:
    @pytest.mark.parametrize("name", ["text_lines", "text_parquet"])
    def test_each_row_is_a_sample(self, layout, outcome, name):
        samples, dropped = outcome(layout(name))
        assert [text_in(members) for members in samples.values()] == ["First extract.", "Third — é."]
        assert [about(members) for members in samples.values()] == [
            {"url": "https://a/1"},
            {"url": "https://a/3"},
        ]
        assert [len(names) for names in dropped.values()] == [1]
        assert list(dropped) == ["no text"]

    @pytest.mark.parametrize("name", ["text_lines", "text_parquet"])
    def test_another_name_of_the_text_must_be_there(self, layout, name):
        with pytest.raises(ValueError, match="content"):
            replace(layout(name), text="content").check()

    def test_a_packed_file_that_unpacks_without_end_is_given_up(self, tmp_path, outcome, monkeypatch):
        import gzip

        from datamodules.sources import annotations
        from datamodules.sources.text_table import TextTable

        monkeypatch.setattr(annotations, "FREE_BYTES", 1 << 16)
        line = b'{"text": "' + b"a" * 4000 + b'"}\n'
        (tmp_path / "bomb.jsonl.gz").write_bytes(gzip.compress(line * 1000))
        samples, dropped = outcome(TextTable(tmp_path))
        assert len(samples) < 1000
        assert dropped == {"rest of the file cannot be read": ["bomb.jsonl.gz"]}


class TestImg2Dataset:
    @pytest.mark.parametrize("name", ["img2dataset_files", "img2dataset_tars", "img2dataset_parquet"])
    def test_downloads_are_samples_and_failures_are_counted(self, layout, outcome, name):
        samples, dropped = outcome(layout(name), expand=True)
        assert {key: text_in(members) for key, members in samples.items()} == {
            "000000000": "caption 0", "000000002": "caption 2"
        }  # fmt: skip
        for key, members in samples.items():
            image = members["jpg"] if isinstance(members["jpg"], bytes) else members["jpg"].read_bytes()
            assert image == key.encode()
            assert about(members)["original_width"] == 256
            assert about(members)["url"].endswith(f"{int(key)}.jpg")
        assert list(dropped) == ["failed_to_download: HTTP Error 404: Not Found"]

    def test_shards_are_read_without_their_parquet(self, layout, outcome):
        source = layout("img2dataset_tars")
        (Path(source.path) / "00000.parquet").write_bytes(b"PAR1, cut")
        samples, dropped = outcome(source, expand=True)
        assert (len(samples), dropped) == (2, {})

    def test_a_cut_tar_is_dropped_and_named(self, layout, outcome):
        source = layout("img2dataset_tars")
        tar = Path(source.path) / "00000.tar"
        tar.write_bytes(tar.read_bytes()[:700])
        samples, dropped = outcome(source, expand=True)
        assert not samples
        assert dropped["cut"] == ["00000.tar/byte 1024"]
        assert dropped["beside damage"] == ["00000.tar/000000000"]

    def test_a_parquet_of_addresses_alone_is_refused(self, layout):
        source = layout("img2dataset_files")
        for file in sorted(Path(source.path).glob("00000/*")):
            file.unlink()
        (Path(source.path) / "00000").rmdir()
        with pytest.raises(ValueError, match="no column of images"):
            source.check()


@pytest.mark.parametrize(
    "name",
    [
        "coco",
        "visual_questions",
        "imagenet",
        "open_images",
        "localized_narratives",
        "audio_set",
        "audio_caps",
        "ego4d",
    ],
)
def test_a_missing_annotation_file_is_named_with_its_argument(layout, name, tmp_path):
    source = layout(name)
    for file in source.files():
        if file.suffix in (".json", ".jsonl", ".csv", ".txt"):
            file.rename(tmp_path / "away")
            with pytest.raises(FileNotFoundError, match=rf"{file.name} is not there.*`\w+` names"):
                source.check()
            (tmp_path / "away").rename(file)
    source.check()


def test_the_fingerprint_changes_with_any_annotation_file(any_layout):
    source, folder, names = any_layout
    before = source.fingerprint()
    assert source.fingerprint() == before
    for name in names:
        (folder / name).write_bytes((folder / name).read_bytes() + b" ")
        assert source.fingerprint() != before
        before = source.fingerprint()


def test_a_source_may_be_sent_to_worker_processes(any_layout):
    import pickle

    source, _, _ = any_layout
    list(source)
    assert pickle.loads(pickle.dumps(source)) == source


def documented():
    """Return the sets that docs/sources.md shows."""
    text = (ROOT / "docs/sources.md").read_text(encoding="utf-8")
    return yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])["sets"]


def test_every_source_has_a_row_and_a_line_of_config_that_builds_it():
    text = (ROOT / "docs/sources.md").read_text(encoding="utf-8")
    built = set()
    for chosen in documented().values():
        module, _, name = chosen["source"]["class_path"].rpartition(".")
        source = getattr(importlib.import_module(module), name)(**chosen["source"]["init_args"])
        built.add(type(source))
    ours = {each for each in Source.__subclasses__() if each.__module__.startswith("datamodules.sources")}
    assert built == ours
    for each in ours:
        assert f"| `{each.__module__.rpartition('.')[2]}.{each.__name__}` |" in text


def test_help_lists_every_source():
    command = [sys.executable, "-m", "stages.prepare", "--one.help"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    shown = "".join(shown.split())
    for chosen in documented().values():
        assert chosen["source"]["class_path"] in shown


def test_prepare_writes_what_lies_in_tars_of_img2dataset(layout, tmp_path):
    import io

    from PIL import Image

    source = layout("img2dataset_tars")
    rewritten = tmp_path / "rewritten.tar"
    with tarfile.open(Path(source.path) / "00000.tar") as old, tarfile.open(rewritten, "w") as new:
        for number, member in enumerate(old):
            file = io.BytesIO()
            Image.new("RGB", (16, 16), (0, 100 * number, 0)).save(file, "JPEG")
            data = file.getvalue() if member.name.endswith("jpg") else old.extractfile(member).read()
            member.size = len(data)
            new.addfile(member, io.BytesIO(data))
    rewritten.replace(Path(source.path) / "00000.tar")
    command = [sys.executable, "-m", "stages.prepare", "--out", str(tmp_path / "out")]
    command += ["--one.source", "Img2Dataset", "--one.source.path", str(source.path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["members"] == {"jpg": 2, "json": 2, "txt": 2}
    assert manifest["dropped"] == {"failed_to_download: HTTP Error 404: Not Found": 1}
    with tarfile.open(tmp_path / "out/000000.tar") as tar:
        assert tar.extractfile("000000002.txt").read() == b"caption 2"
