"""Kinds of question about scenes, how they are phrased, and the answer that the scene gives."""

from stages.demo.scenes import DIGITS, Scene

PHRASINGS = {
    "shown_digit": ("Which digit is shown?", "What digit do you see?", "Name the digit in the picture."),
    "spoken_digit": ("Which digit is spoken?", "What digit do you hear?", "Name the digit in the speech."),
    "repeat": ("What is said?", "Repeat the speech."),
    "match": ("Do picture and speech match?", "Does the speech say what the picture shows?"),
    "sum": ("What is the sum of the digits?", "Add up the digits.", "What do the digits add up to?"),
    "read": ("Read the digits from left to right.", "Which digits are shown from left to right?"),
    "describe": ("Describe the picture.", "What is in the picture?"),
}
MEDIA = {
    "shown_digit": ("image",),
    "spoken_digit": ("audio",),
    "repeat": ("audio",),
    "match": ("image", "audio"),
    "sum": ("image",),
    "read": ("image",),
    "describe": ("image",),
}


def fits(task: str, scene: Scene) -> bool:
    """Whether this kind of question can be asked about a scene."""
    count = len(scene.things)
    if task in ("shown_digit", "spoken_digit"):
        return count == 1
    if task == "sum":
        return count > 1
    if task == "read":
        return scene.relation == "left of"
    return True


def answer(task: str, scene: Scene, spoken: Scene | None = None) -> str:
    """Return the answer; `scene` is what is shown or, without a picture, spoken; `match` compares it with `spoken`."""
    digits = [thing.digit for thing in scene.things]
    if task == "match":
        return "yes" if scene == spoken else "no"
    if task == "sum":
        return str(sum(DIGITS.index(digit) for digit in digits))
    if task in ("describe", "repeat"):
        return scene.caption
    return " ".join(digits)
