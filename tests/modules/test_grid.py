"""The grid: every encoder family, fusion and objective together, over every pattern of presence of four modalities.

Each encoder is built and asked once; a cell of the grid is a forward pass from its Tokens, and a backward pass through
it. Fusions, objectives and tasks are found by walking their packages, so that a new one cannot be forgotten.
"""

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from families import builders, inputs_of
from torch import Tensor
from walk import classes

import modules.fusion
import modules.objectives
import modules.tasks
from modules.encoders.encoder import Encoder
from modules.fusion.fusion import Fusion
from modules.fusion.gated import GatedFusion
from modules.fusion.latent import LatentFusion
from modules.fusion.quality_fusion import QualityFusion
from modules.objectives.aligned import Aligned, AlignmentObjective, select
from modules.objectives.captioning import Captioning
from modules.objectives.completion import Completion
from modules.objectives.contrastive import InfoNCE, SigLIP
from modules.objectives.latent_alignment import LatentAlignment
from modules.objectives.matching import Matching
from modules.objectives.temporal import TemporalAlignment
from modules.objectives.weighted import GradientBalanced, Weighted
from modules.projections import Projection
from modules.tasks.classification import Classification
from modules.tasks.regression import Regression
from modules.tasks.tagging import Tagging
from modules.tasks.task import Task, Truth
from modules.tokens import Tokens

MODALITIES = ("audio", "image", "text", "video")
REFERENCES = {"audio": "audio-log_mel", "image": "image-vit", "text": "text-bert", "video": "video-mean"}
PATTERNS = list(itertools.product((False, True), repeat=4))
DIM = 8
DECODER = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 64}
Widths = dict[str, int]
Cell = Callable[[Aligned], Tensor]


FUSIONS = sorted(classes(modules.fusion, Fusion), key=lambda each: each.__name__)


def fusion(kind: type[Fusion], widths: Widths) -> Fusion:
    if kind is QualityFusion:
        return QualityFusion(widths, GatedFusion(widths, DIM))
    return kind(widths, DIM)  # all others have a default for whatever else they take


def contrast_and_match(widths: Widths) -> dict[str, AlignmentObjective]:
    return {"contrast": InfoNCE(), "match": Matching(GatedFusion(widths, DIM))}


OBJECTIVES: dict[type, Callable[[Widths, str], AlignmentObjective]] = {
    InfoNCE: lambda widths, tokenizer: InfoNCE(),
    SigLIP: lambda widths, tokenizer: SigLIP(),
    Captioning: lambda widths, tokenizer: Captioning(
        {name: width for name, width in widths.items() if name != "text"}, DECODER, tokenizer
    ),
    Completion: lambda widths, tokenizer: Completion(list(widths), DIM),
    TemporalAlignment: lambda widths, tokenizer: TemporalAlignment(
        {name: widths[name] for name in list(widths)[:2]}, DIM
    ),
    LatentAlignment: lambda widths, tokenizer: LatentAlignment(LatentFusion(widths, DIM), adversary=0.1),
    Weighted: lambda widths, tokenizer: Weighted(contrast_and_match(widths)),
    GradientBalanced: lambda widths, tokenizer: GradientBalanced(contrast_and_match(widths)),
}
OF_EACH_FUSION: dict[type, Callable[[Fusion], AlignmentObjective]] = {Matching: Matching}
TASKS: dict[type, Callable[[Fusion], Task]] = {
    Classification: lambda fusion: Classification(fusion.dim, ["yes", "no", "perhaps"]),
    Regression: lambda fusion: Regression(fusion.dim),
    Tagging: lambda fusion: Tagging(fusion.dim, ["PER"]),
}


def truth_of(task: Task, aligned: Aligned) -> Truth:
    everyone = torch.arange(aligned.size)
    if isinstance(task, Tagging):
        rows = aligned.rows["text"]
        count = aligned.tokens["text"].mask.shape[1]
        first = torch.arange(count).expand(len(rows), -1)
        return Truth({"tags": first % 3, "first_token": first}, rows)
    if isinstance(task, Regression):
        return Truth({"number": everyone.float() - 3}, everyone)
    return Truth({"label": everyone % 3}, everyone)


def cells(widths: Widths, tokenizer: str) -> Iterator[tuple[str, Cell]]:
    """Yield every objective, over every fusion that it takes."""
    for kind, build in OBJECTIVES.items():
        objective = build(widths, tokenizer)
        yield kind.__name__, lambda aligned, objective=objective: sum(objective(aligned).values())
    for each in FUSIONS:
        for kind, build in OF_EACH_FUSION.items():
            objective = build(fusion(each, widths))
            objective.configure(widths, DIM)
            yield (
                f"{kind.__name__} of {each.__name__}",
                lambda aligned, objective=objective: sum(objective(aligned).values()),
            )
        for kind, build in TASKS.items():
            joined = fusion(each, widths)
            task = build(joined)
            if kind is Tagging and joined.num_leading is None:
                continue  # refused: such a fusion does not keep the words apart
            yield f"{kind.__name__} of {each.__name__}", _asked(task, joined)


def _asked(task: Task, joined: Fusion) -> Cell:
    def cell(aligned: Aligned) -> Tensor:
        judged = task(joined(aligned.tokens, aligned.rows, aligned.size), truth_of(task, aligned))
        return judged.total / judged.count.clamp(min=1)

    return cell


@pytest.fixture(scope="module")
def encoders(tokenizer_path, tmp_path_factory) -> Callable[[str], Encoder]:
    """Return a function from a family to its encoder, built once."""
    torch.manual_seed(0)
    folder, made, built = tmp_path_factory.mktemp("models"), builders(tokenizer_path), {}

    def encoder(family: str) -> Encoder:
        if family not in built:
            built[family] = made[family](folder / family).eval()
        return built[family]

    return encoder


def tokens_of(encoder: Encoder, modality: str, rows: int = 3) -> Tokens:
    return encoder({name: tensor[:rows] for name, tensor in inputs_of(modality).items()})


def aligned(tokens: dict[str, Tokens], rows: dict[str, Tensor], size: int) -> Aligned:
    """Make what alignment would of Tokens, of which samples take the rows in turn."""
    torch.manual_seed(0)
    spread = {
        name: select(each, torch.arange(len(rows[name])) % max(1, len(each))) for name, each in tokens.items()
    }
    projected = {name: Projection(each.features.shape[2], DIM)(each) for name, each in spread.items()}
    embeddings = {name: torch.nn.functional.normalize(each, dim=1) for name, each in projected.items()}
    text = {name: tensor[torch.arange(len(rows["text"])) % 3] for name, tensor in inputs_of("text").items()}
    return Aligned(embeddings, rows, size, spread, {"text": text})


def is_asked(cell: str, modality: str, present: set[str], ordered: list[str]) -> bool:
    """Say whether a cell should reach a modality's encoder, when these are present."""
    if cell == "Captioning":  # its decoder reads the words themselves, not what an encoder makes of them
        return modality != "text" and {modality, "text"} <= present
    if cell == "TemporalAlignment":
        return modality in ordered[:2] and set(ordered[:2]) <= present
    if cell.startswith("Tagging") and "text" not in present:
        return False
    return modality in present and len(present) > 1


def gradients(loss: Tensor, encoder: Encoder) -> Tensor:
    """Return the gradient of an encoder's parameters as one vector; zero for those that play no part."""
    parameters = [parameter for parameter in encoder.parameters() if parameter.requires_grad]
    found = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    return torch.cat([each.flatten() for each in found if each is not None] or [torch.zeros(1)])


def families() -> list[str]:
    return sorted(builders("no tokenizer is read before one is built"))


@pytest.mark.parametrize("family", families())
def test_every_fusion_and_objective_trains_an_encoder_of_every_family(family, encoders, tokenizer_path):
    modality = family.partition("-")[0]
    encoder = encoders(family)
    tokens = {name: tokens_of(encoders(REFERENCES[name]), name) for name in MODALITIES}
    tokens = {name: Tokens(each.features.detach(), each.mask) for name, each in tokens.items()}
    tokens = {modality: tokens_of(encoder, modality), **{n: t for n, t in tokens.items() if n != modality}}
    rows = {
        name: torch.tensor([i for i, p in enumerate(PATTERNS) if p[MODALITIES.index(name)]])
        for name in tokens
    }
    batch = aligned(tokens, rows, len(PATTERNS))
    wrong = []
    ordered = list(tokens)
    for name, cell in cells({key: each.features.shape[2] for key, each in tokens.items()}, tokenizer_path):
        if name.startswith("Tagging") and tokens["text"].mask.shape[1] == 1:
            continue  # refused: such an encoder pools
        loss = cell(batch)
        gradient = gradients(loss, encoder)
        is_sound = loss.isfinite() and gradient.isfinite().all()
        if not is_sound or (not gradient.any() and is_asked(name, modality, set(MODALITIES), ordered)):
            wrong.append(f"{name}: loss {loss.item()}, gradient {gradient.abs().sum().item()}")
    assert not wrong


@pytest.mark.parametrize(
    "present", PATTERNS, ids=lambda p: "-".join(itertools.compress(MODALITIES, p)) or "none"
)
def test_a_modality_that_a_batch_lacks_gets_gradients_of_zero_and_the_others_get_theirs(
    present, encoders, tokenizer_path
):
    here = dict(zip(MODALITIES, present, strict=True))
    towers = {name: encoders(REFERENCES[name]) for name in MODALITIES}
    tokens = {name: tokens_of(towers[name], name, 3 if here[name] else 0) for name in MODALITIES}
    rows = {name: torch.arange(4 if here[name] else 0) for name in MODALITIES}
    batch = aligned(tokens, rows, 4)
    wrong = []
    for cell_name, cell in cells(
        {name: each.features.shape[2] for name, each in tokens.items()}, tokenizer_path
    ):
        loss = cell(batch)
        if not loss.isfinite():
            wrong.append(f"{cell_name}: loss {loss.item()}")
        for name in MODALITIES:
            gradient = gradients(loss, towers[name])
            if not gradient.isfinite().all() or (gradient.any() and not here[name]):
                wrong.append(f"{cell_name}: gradient {gradient.abs().sum().item()} of {name}")
            if not gradient.any() and is_asked(
                cell_name, name, set(itertools.compress(MODALITIES, present)), list(MODALITIES)
            ):
                wrong.append(f"{cell_name}: no gradient of {name}")
    assert not wrong


def test_no_fusion_objective_or_task_is_left_out():
    assert len(FUSIONS) >= 9
    assert classes(modules.objectives, AlignmentObjective) == {*OBJECTIVES, *OF_EACH_FUSION}
    assert classes(modules.tasks, Task) == set(TASKS)
    assert {family.partition("-")[0] for family in families()} == set(MODALITIES)
