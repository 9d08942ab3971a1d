"""Weak captions: who gets one, what is said of where it comes from, and what cannot be captioned."""

import json
from dataclasses import dataclass, field

import pytest

from datamodules.preparation.cleaning.filter import Reject
from datamodules.preparation.cleaning.pairing import WeakText
from datamodules.sources.source import Sample
from stages.prepare.captioners import AssistantCaptions, Caption, CaptionModel, PretrainedCaptions, said
from stages.prepare.captions import WeakCaptions


@dataclass
class Scripted(CaptionModel):
    """Says how many bytes a picture has; of none it says nothing."""

    batches: list[int] = field(default_factory=list)

    def caption(self, samples, member):
        self.batches.append(len(samples))
        return [said(f"{len(s.members[member])}  bytes" if s.members[member] else "...") for s in samples]

    @property
    def origin(self):
        return {"model": "scripted", "sha256": "0" * 64, "prompt": ""}


def picture(key, data=b"png", **members):
    return Sample(key, {"png": data, **members}, key)


def test_only_pictures_without_a_text_are_captioned_and_marked_as_weak():
    labelled, alone, sound = (
        picture("a", txt=b"a dog"),
        picture("b", flac=b"fLaC"),
        Sample("c", {"flac": b""}, "c"),
    )
    made = WeakCaptions(Scripted())([labelled, alone, sound])
    assert (made[0], made[2]) == (labelled, sound)
    assert made[1].members["txt"] == b"3 bytes" and made[1].members["flac"] == b"fLaC"
    origin = json.loads(made[1].members["origin.json"])
    assert origin == {"txt": {"weak": True, "model": "scripted", "sha256": "0" * 64, "prompt": ""}}


def test_weak_texts_can_be_left_out_later():
    [made] = WeakCaptions(Scripted())([picture("b")])
    with pytest.raises(Reject, match="weak text"):
        WeakText().examine(made)
    for members in (
        {"txt": b"a dog"},
        {"origin.json": b"{"},
        {"origin.json": b'{"txt": []}'},
        {"origin.json": b"[]"},
    ):
        assert WeakText().examine(picture("a", **members)) is None


def test_what_a_sample_says_of_other_members_stays_and_what_is_no_record_goes():
    said_before, garbage = (
        picture("a", **{"origin.json": b'{"png": {"by": "me"}}'}),
        picture("b", **{"origin.json": b"[1"}),
    )
    made = [json.loads(s.members["origin.json"]) for s in WeakCaptions(Scripted())([said_before, garbage])]
    assert [sorted(origin) for origin in made] == [["png", "txt"], ["txt"]]


def test_what_cannot_be_captioned_is_kept_and_counted():
    step = WeakCaptions(Scripted())
    empty = picture("empty", b"")
    assert step([empty, picture("b")])[0] is empty
    about = step.report()["captions"]
    assert (about["captioned"], about["not_captioned"]) == (1, {"empty caption": 1})


def test_batches_hold_the_pictures_of_a_shard_in_order_and_counts_go_on():
    model = Scripted()
    step = WeakCaptions(model, batch_size=2)
    pictures = [picture(str(number), bytes(number + 1)) for number in range(5)]
    made = step(pictures)
    assert model.batches == [2, 2, 1]
    assert [sample.members["txt"] for sample in made] == [b"%d bytes" % (number + 1) for number in range(5)]
    again = WeakCaptions(Scripted())
    again.restore(step.state())
    again([picture("x")])
    assert again.report()["captions"]["captioned"] == 6


def test_a_pretrained_model_captions_what_it_can_decode(captioners, scenes):
    model = PretrainedCaptions(captioners["git"], prompt="a photo of", max_new_tokens=4)
    good = Sample("good", {"png": scenes[0]["png"]}, "good")
    bad = Sample("bad", {"png": b"<html>"}, "bad")
    captions = model.caption([bad, good, bad], "png")
    assert captions[0] == captions[2] == Caption(problem="undecodable image")
    assert captions[1].text.startswith("a photo of")
    assert (model.origin["model"], model.origin["prompt"]) == (captioners["git"], "a photo of")


def test_an_assistant_of_our_own_answers_about_each_picture(assistant_parts, scenes):
    from stages.serve.service import Medium, Service

    model = AssistantCaptions(str(assistant_parts), question="Which colour is <image>?", max_new_tokens=5)
    pictures = [Sample(scene["__key__"], {"png": scene["png"]}, "") for scene in scenes[:3]]
    bad = Sample("bad", {"png": b"<html>"}, "bad")
    captions = model.caption([pictures[0], bad, *pictures[1:]], "png")
    assert captions[1] == Caption(problem="undecodable image")
    assert model.caption([bad], "png") == [captions[1]]
    loaded, _ = model._load()
    service = Service(embedder_of(assistant_parts), assistant=loaded, max_new_tokens=5)
    asked = [
        service.ask("Which colour is <image>?", [Medium("image", s.members["png"], "a.png")])
        for s in pictures
    ]
    assert [said(answer) for answer in asked] == [captions[0], *captions[2:]]
    assert model.origin["model"] == str(assistant_parts) and len(model.origin["sha256"]) == 64


def embedder_of(parts_folder):
    """Return any embedder: the service wants one."""
    from modules import parts
    from modules.embedder import Embedder
    from modules.projections import Projection

    encoder = parts.load(str(parts_folder / "encoders.image"))
    return Embedder({"image": encoder}, {"image": Projection(encoder.dim, 4)})


def test_an_assistant_that_sees_no_images_is_refused(assistant_parts, tmp_path):
    import shutil

    for name in ("language_model", "encoders.audio", "projectors.audio"):
        shutil.copytree(assistant_parts / name, tmp_path / name)
    with pytest.raises(ValueError, match="expected one that sees images"):
        assert AssistantCaptions(str(tmp_path)).origin
