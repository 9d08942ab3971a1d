"""A small tree of every layout that has annotation files, with the names and fields of the real ones."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import pytest

from datamodules.sources.audio_set import AudioCaps, AudioSet
from datamodules.sources.class_folder import ClassFolder
from datamodules.sources.coco_captions import CocoCaptions
from datamodules.sources.conll import Conll
from datamodules.sources.ego4d import Ego4D
from datamodules.sources.img2dataset import Img2Dataset
from datamodules.sources.librispeech import LibriSpeech
from datamodules.sources.llava_json import LlavaJson
from datamodules.sources.localized_narratives import LocalizedNarratives
from datamodules.sources.open_images import OpenImages
from datamodules.sources.source import Dropped, Sample
from datamodules.sources.text_table import TextTable
from datamodules.sources.visual_questions import VisualQuestions
from datamodules.sources.voxceleb import VoxCeleb

UIDS = ("001e3e4e-2743-47fc-8564-d5efd11f9e90", "002ad105-bd9a-4858-953e-54e88dc7587e")


def write(root, files):
    """Write files below `root`; what is no text or bytes becomes JSON."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = content if isinstance(content, (str, bytes)) else json.dumps(content)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())


def coco(root):
    images = [
        {"license": 3, "file_name": f"{identifier:012d}.jpg", "coco_url": "http://images.cocodataset.org/x",
         "height": 360, "width": 640, "date_captured": "2013-11-14 11:18:45", "id": identifier}
        for identifier in (391895, 522418, 184613)
    ]  # fmt: skip
    captions = [(391895, 770337, "A man with a red helmet."), (391895, 771687, "Man riding a motor bike."),
                (522418, 681330, "A woman wearing a net."), (184613, 474921, "  "), (9, 1, "Nobody's.")]  # fmt: skip
    annotations = [
        {"image_id": image, "id": identifier, "caption": text} for image, identifier, text in captions
    ]
    write(root, {
        "annotations/captions_train2017.json": {
            "info": {"description": "COCO 2017 Dataset"}, "licenses": [{"id": 1, "name": "x"}],
            "images": images, "annotations": annotations,
        },
        "train2017/000000391895.jpg": b"1", "train2017/000000184613.jpg": b"3",
    })  # fmt: skip
    return CocoCaptions(root), ["annotations/captions_train2017.json"]


def visual_questions(root):
    given = {458752000: ["net", "net", "fence", "net"], 458752001: ["pitcher"], 262148000: ["down"]}
    questions = [
        {"image_id": identifier // 1000, "question": f"What is this {identifier}?", "question_id": identifier}
        for identifier in (*given, 393225000)
    ]
    annotations = [
        {"question_type": "what is this", "multiple_choice_answer": answers[0], "answer_type": "other",
         "answers": [{"answer": answer, "answer_confidence": "yes", "answer_id": number + 1}
                     for number, answer in enumerate(answers)],
         "image_id": identifier // 1000, "question_id": identifier}
        for identifier, answers in given.items()
    ]  # fmt: skip
    about = {"info": {}, "data_type": "mscoco", "data_subtype": "train2014", "license": {}}
    write(root, {
        "v2_OpenEnded_mscoco_train2014_questions.json": about | {"task_type": "Open-Ended", "questions": questions},
        "v2_mscoco_train2014_annotations.json": about | {"annotations": annotations},
        "train2014/COCO_train2014_000000458752.jpg": b"1", "train2014/000000393225.jpg": b"2",
    })  # fmt: skip
    files = ["v2_OpenEnded_mscoco_train2014_questions.json", "v2_mscoco_train2014_annotations.json"]
    return VisualQuestions(root), files


def imagenet(root):
    write(root, {
        "LOC_synset_mapping.txt": "n01440764 tench, Tinca tinca\nn02012849 crane\nn03126707 crane\n",
        "train/n01440764/n01440764_10026.JPEG": b"1", "train/n03126707/n03126707_1.JPEG": b"2",
        "train/n02012849/n02012849_1.jpeg": b"3",
    })  # fmt: skip
    return ClassFolder(root / "train", root / "LOC_synset_mapping.txt"), ["LOC_synset_mapping.txt"]


def open_images(root):
    write(root, {
        "oidv7-train-annotations-human-imagelabels.csv":
            "ImageID,Source,LabelName,Confidence\n"
            "000002b66c9c498e,verification,/m/014j1m,0\n000002b66c9c498e,crowdsource-verification,/m/01g317,1\n"
            "000002b66c9c498e,verification,/m/02jz0l,1\n000002b97e5471a0,verification,/m/014j1m,0\n"
            "000002c707c9895e,verification,/m/01g317,1\n",
        "oidv7-class-descriptions.csv":
            'LabelName,DisplayName\n/m/014j1m,Apple\n/m/01g317,Person\n/m/02jz0l,"Tap, faucet"\n',
        "train-images-boxable-with-rotation.csv":
            "ImageID,Subset,OriginalURL,OriginalLandingURL,License,AuthorProfileURL,Author,Title,OriginalSize,"
            "OriginalMD5,Thumbnail300KURL,Rotation\n"
            '000002b66c9c498e,train,https://a/b.jpg,https://f,https://cc/by/2.0/,https://p,"Ann, B",T,9,md5,,0.0\n',
        "train/000002b66c9c498e.jpg": b"1", "train/000002b97e5471a0.jpg": b"2",
    })  # fmt: skip
    names = ["oidv7-train-annotations-human-imagelabels.csv", "oidv7-class-descriptions.csv"]
    names += ["train-images-boxable-with-rotation.csv"]
    return OpenImages(root, about=Path(names[2])), names


def localized_narratives(root):
    lines = [
        {"dataset_id": "open_images_train", "image_id": "000002b66c9c498e", "annotator_id": 93,
         "caption": "In this image I can see a tap.", "timed_caption": [{"utterance": "In", "start_time": 0.0}],
         "traces": [[{"x": 0.1, "y": 0.2, "t": 0.0}]],
         "voice_recording": "open_images_train/open_images_train_000002b66c9c498e_93.ogg"},
        {"dataset_id": "open_images_train", "image_id": "000002b97e5471a0", "annotator_id": 2, "caption": "A bus.",
         "voice_recording": "open_images_train/gone.ogg"},
        {"dataset_id": "open_images_train", "image_id": "../000002b97e5471a0", "annotator_id": 2, "caption": "A bus."},
    ]  # fmt: skip
    write(root, {
        "open_images_train_v6_captions.jsonl": "\n".join(map(json.dumps, lines)),
        "train/000002b66c9c498e.jpg": b"1", "train/000002b97e5471a0.jpg": b"2",
        "voice-recordings/open_images_train/open_images_train_000002b66c9c498e_93.ogg": b"3",
    })  # fmt: skip
    return LocalizedNarratives(root), ["open_images_train_v6_captions.jsonl"]


def librispeech(root):
    write(root, {
        "LibriSpeech/SPEAKERS.TXT":
            "; Some pipe(|) separated metadata about all the participating speakers\n"
            ";ID  |SEX| SUBSET           |MINUTES| NAME\n19   | F | train-clean-100  | 25.19 | Kara | Shallenberg\n",
        "LibriSpeech/train-clean-100/19/198/19-198.trans.txt":
            "19-198-0000 NORTHANGER ABBEY\n19-198-0001 THIS LITTLE WORK\n19-198-0003 \n",
        "LibriSpeech/train-clean-100/19/198/19-198-0000.flac": b"1",
        "LibriSpeech/train-clean-100/19/198/19-198-0002.flac": b"2",
    })  # fmt: skip
    names = ["LibriSpeech/SPEAKERS.TXT", "LibriSpeech/train-clean-100/19/198/19-198.trans.txt"]
    return LibriSpeech(root / "LibriSpeech/train-clean-100"), names


def voxceleb(root):
    write(root, {
        "vox1_meta.csv":
            "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\nid10001\tA.J._Buckley\tm\tIreland\tdev\n",
        "vox2_meta.csv": "VoxCeleb2 ID ,VGGFace2 ID ,Gender ,Set \nid00012 ,n000012 ,m ,dev \n",
        "wav/id10001/1zcIwhmdeo4/00001.wav": b"1", "dev/aac/id00012/21Uxsk56VDQ/00001.m4a": b"2",
        "musan/noise.wav": b"3",
    })  # fmt: skip
    return VoxCeleb(root), ["vox1_meta.csv", "vox2_meta.csv"]


def audio_set(root):
    write(root, {
        "balanced_train_segments.csv":
            "# Segments csv created Sun Mar  5 10:54:31 2017\n"
            "# num_ytids=22160, num_segs=22160, num_unique_labels=527, num_positive_labels=52882\n"
            "# YTID, start_seconds, end_seconds, positive_labels\n"
            '--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"\n--ZhevVpy1s, 50.000, 60.000, "/m/012xff"\n'
            '--aE2O5G5WE, 0.000, 10.000, "/m/09x0r"\n-0RWZT-miFs, 420.000, 430.000, "/m/nowhere"\n',
        "class_labels_indices.csv":
            'index,mid,display_name\n0,/m/09x0r,"Speech"\n1,/t/dd00088,"Gush"\n2,/m/012xff,"Toothbrush, electric"\n',
        "balanced_train_segments/Y--PJHxphWEs.wav": b"1",
        "balanced_train_segments/--ZhevVpy1s_50.000_60.000.flac": b"2",
        "balanced_train_segments/-0RWZT-miFs_420000_430000.flac": b"3",
    })  # fmt: skip
    return AudioSet(root), ["balanced_train_segments.csv", "class_labels_indices.csv"]


def audio_caps(root):
    write(root, {
        "train.csv":
            "audiocap_id,youtube_id,start_time,caption\n91139,r1nicOVtvkQ,130,A woman talks nearby as water pours\n"
            '58146,UDGBjjwyaqE,20,"Multiple clanging,\nand clanking sounds"\n11542,3ndid3jni7M,16,A stray " mark\n'
            "2,../../etc/pw,0,x\n",
        "train/r1nicOVtvkQ_130.wav": b"1", "train/58146.flac": b"2", "train/3ndid3jni7M.wav": b"3",
    })  # fmt: skip
    return AudioCaps(root), ["train.csv"]


def ego4d(root):
    def narration(time_s, text):
        return {"timestamp_sec": time_s, "timestamp_frame": int(30 * (time_s or 0)), "narration_text": text,
                "annotation_uid": "b4a3"}  # fmt: skip

    narrations = [narration(0.5, "#C C picks a bag from the floor"), narration(1.1, "#O a man X walks #unsure"),
                  narration(1.6, "#O A man X hands C the cup."), narration(None, "#C C waits")]  # fmt: skip
    videos = {
        UIDS[0]: {"narration_pass_1": {"narrations": narrations, "summaries": []}, "status": "complete"},
        UIDS[1]: {"status": "redacted"},
    }
    write(root, {
        "v2/annotations/narration.json": {"version": "v2", "date": "230208", "videos": videos},
        f"v2/full_scale/{UIDS[0]}.mp4": b"1",
    })  # fmt: skip
    return Ego4D(root), ["v2/annotations/narration.json"]


def llava(root):
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "this"}]
    records = [{"id": "000000033471", "image": "coco/train2017/000000033471.jpg", "conversations": turns}]
    write(root, {"llava_instruct_150k.json": records, "coco/train2017/000000033471.jpg": b"1"})
    return LlavaJson(root / "llava_instruct_150k.json"), ["llava_instruct_150k.json"]


TEXTS = [
    {"text": "First extract.", "url": "https://a/1", "timestamp": "2019-04-25T12:57:54Z"},
    {"text": None, "url": "https://a/2", "timestamp": "2019-04-25T12:57:54Z"},
    {"text": "Third — é.", "url": "https://a/3", "timestamp": "2019-04-25T12:57:54Z"},
]


def text_lines(root):
    packed = gzip.compress("\n".join(map(json.dumps, TEXTS)).encode(), mtime=0)
    write(root, {"en/c4-train.00000-of-01024.json.gz": packed})
    return TextTable(root, metadata=["url"]), ["en/c4-train.00000-of-01024.json.gz"]


def text_parquet(root):
    write_parquet(root / "data/CC-MAIN-2013-20/000_00000.parquet", TEXTS)
    return TextTable(root, metadata=["url"]), ["data/CC-MAIN-2013-20/000_00000.parquet"]


def conll(root):
    write(root, {
        "eng.train":
            "-DOCSTART- -X- O O\n\nEU NNP I-NP I-ORG\nrejects VBZ I-VP O\nGerman JJ I-NP I-MISC\ncall NN I-NP O\n"
            ". . O O\n\nPeter NNP I-NP I-PER\nBlackburn NNP I-NP I-PER\n\nLeeds NNP I-NP I-ORG\nYork NNP B-NP B-ORG\n",
    })  # fmt: skip
    return Conll(root, Path("eng.train")), ["eng.train"]


def tweets(root):
    write(root, {
        "train.txt":
            "IMGID:1015799\nRT\tO\n@JayKenMinaj\tO\n_\tO\nKevin\tB-PER\nLove\tI-PER\n\n"
            "IMGID:16_05_01_6\nAustin\tB-LOC\né\tO\n\nIMGID:7\nNobody\tO\n",
        "twitter2015_images/1015799.jpg": b"1", "twitter2015_images/16_05_01_6.png": b"2",
    })  # fmt: skip
    return Conll(root, images=Path("twitter2015_images")), ["train.txt"]


def write_parquet(path, rows):
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=2)


def downloads(image=False):
    """Return what img2dataset knows of three downloads, with the images where the format is parquet."""
    rows = []
    for number, error in enumerate((None, "HTTP Error 404: Not Found", None)):
        key = f"{number:09d}"
        row = {"caption": f"caption {number}", "url": f"https://host/{number}.jpg", "key": key}
        row |= {"status": "failed_to_download" if error else "success", "error_message": error}
        size = None if error else 256
        row |= {"width": size, "height": size, "original_width": size, "original_height": size}
        if image:
            row |= {"jpg": None if error else key.encode(), "txt": None if error else row["caption"]}
        rows.append(row)
    return rows


def img2dataset_files(root):
    for row in downloads():
        if row["status"] == "success":
            stem = f"00000/{row['key']}"
            write(root, {f"{stem}.jpg": row["key"], f"{stem}.txt": row["caption"], f"{stem}.json": row})
    write(root, {"00000_stats.json": {"count": 3, "successes": 2}})
    write_parquet(root / "00000.parquet", downloads())
    return Img2Dataset(root), ["00000.parquet", "00000/000000000.json"]


def img2dataset_tars(root):
    root.mkdir(parents=True, exist_ok=True)
    with tarfile.open(root / "00000.tar", "w") as tar:
        for row in downloads():
            members = {"jpg": row["key"].encode(), "json": json.dumps(row).encode()}
            for suffix, data in members.items() if row["status"] == "success" else ():
                about = tarfile.TarInfo(f"{row['key']}.{suffix}")
                about.size = len(data)
                tar.addfile(about, io.BytesIO(data))
    write(root, {"00000_stats.json": {"count": 3, "successes": 2}})
    write_parquet(root / "00000.parquet", downloads())
    return Img2Dataset(root), ["00000.parquet", "00000.tar"]


def img2dataset_parquet(root):
    write_parquet(root / "00000.parquet", downloads(image=True))
    return Img2Dataset(root), ["00000.parquet"]


BUILDERS = (
    coco, visual_questions, imagenet, open_images, localized_narratives, librispeech, voxceleb, audio_set, audio_caps,
    ego4d, llava, conll, tweets, text_lines, text_parquet, img2dataset_files, img2dataset_tars, img2dataset_parquet,
)  # fmt: skip


@pytest.fixture
def layout(tmp_path):
    """Return a function that builds a layout by name and returns its source; others are built elsewhere by `at`."""
    builders = {builder.__name__: builder for builder in BUILDERS}

    def build(name, at="data"):
        return builders[name](tmp_path / at)[0]

    return build


@pytest.fixture(params=BUILDERS, ids=lambda builder: builder.__name__)
def any_layout(request, tmp_path):
    """Return a source of each layout, one after another, its folder and the names of its annotation files."""
    source, names = request.param(tmp_path / "data")
    return source, tmp_path / "data", names


@pytest.fixture
def outcome():
    """Return a function that checks and iterates a source: its samples by key, and reason -> names of the dropped."""

    def run(source, expand=False):
        source.check()
        samples, dropped = {}, {}
        for item in source:
            for made in source.expand(item) if expand and isinstance(item, Sample) else [item]:
                if isinstance(made, Dropped):
                    dropped.setdefault(made.reason, []).append(made.name)
                else:
                    assert made.key not in samples
                    samples[made.key] = made.members
        return samples, dropped

    return run
