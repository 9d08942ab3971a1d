"""ImageTokenizer: pictures to symbols and back, by themselves alone, and the objective that trains it."""

import pytest
import torch

from modules import parts
from modules.encoders.image_tokenizer import ImageTokenizer
from modules.objectives.reconstruction import Reconstruction

SMALL = {"image_size": 16, "patch_size": 4, "channels": 16, "levels": [4, 3], "num_blocks": 1}


def pictures(count=3):
    generator = torch.Generator().manual_seed(5)
    small = torch.randint(0, 256, (count, 3, 4, 4), generator=generator, dtype=torch.uint8)
    return {"pixels": small.repeat_interleave(4, 2).repeat_interleave(4, 3)}


@pytest.fixture
def tokenizer():
    return ImageTokenizer(**SMALL)


def trained(steps=30):
    torch.manual_seed(0)
    tokenizer = ImageTokenizer(**SMALL)
    objective = Reconstruction(tokenizer)
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        seen, target = objective.corrupt(pictures(8))
        found, scores = objective(tokenizer(seen), target)
        optimizer.zero_grad()
        found["reconstruction"].backward()
        optimizer.step()
        losses.append(found["reconstruction"].item())
    return tokenizer, losses, scores


def test_symbols_are_of_the_codebook_one_for_each_patch(tokenizer):
    units, mask = tokenizer.units(pictures())
    assert units.shape == (3, 16) == mask.shape and mask.all() and units.dtype == torch.int64
    assert tokenizer.num_units == 12 and units.min() >= 0 and units.max() < 12
    assert len(units.unique()) > 1


def test_symbols_say_all_that_the_decoder_is_given(tokenizer):
    tokens = tokenizer(pictures())
    units, _ = tokenizer.units(pictures())
    assert torch.equal(tokenizer.unit_of(tokens.features), units)
    drawn = ((tokenizer.draw(tokens.features) + 1) * 127.5).round().clamp(0, 255).byte()
    assert torch.equal(tokenizer.pixels(units), drawn)


def test_every_symbol_is_its_own_after_a_round_trip_through_its_meaning(tokenizer):
    every = torch.arange(12).expand(2, 12)
    assert torch.equal(tokenizer.unit_of(tokenizer.quantizer.indices_to_codes(every)), every)


def test_a_picture_has_the_same_symbols_in_any_batch_and_while_training(tokenizer):
    together = tokenizer.train().units(pictures())[0]
    alone = tokenizer.eval().units({"pixels": pictures()["pixels"][1:2]})[0]
    assert torch.equal(together[1:2], alone)


def test_no_picture_gives_no_symbols_and_gradients_of_zero(tokenizer):
    none = {"pixels": pictures()["pixels"][:0]}
    assert (
        tokenizer.units(none)[0].shape == (0, 16) and tokenizer.pixels(tokenizer.units(none)[0]).shape[0] == 0
    )
    objective = Reconstruction(tokenizer)
    seen, target = objective.corrupt(none)
    losses, scores = objective(tokenizer(seen), target)
    losses["reconstruction"].backward()
    assert losses["reconstruction"] == 0 and scores["codes_used"] == 0
    assert all(p.grad is not None and not p.grad.any() for p in tokenizer.parameters())


def test_training_draws_better_and_reports_how_much_of_the_codebook_is_used():
    _, losses, scores = trained()
    assert losses[-1] < 0.5 * losses[0]
    assert 0 < scores["codes_used"] <= 1 and 1 <= scores["code_perplexity"] <= 12
    assert scores["psnr_db"] == pytest.approx(10 * torch.log10(torch.tensor(4 / losses[-1])).item(), rel=1e-4)


def test_training_twice_gives_the_same_weights():
    (one, *_), (other, *_) = trained(5), trained(5)
    assert all(torch.equal(one.state_dict()[name], tensor) for name, tensor in other.state_dict().items())


def test_a_part_that_was_handed_over_makes_the_same_symbols_and_pictures(tokenizer, tmp_path):
    copy = parts.load(str(parts.save(tokenizer, tmp_path / "image")))
    units, _ = tokenizer.units(pictures())
    assert torch.equal(copy.units(pictures())[0], units)
    assert torch.equal(copy.pixels(units), tokenizer.pixels(units))


def test_what_does_not_fit_is_refused(tokenizer, text_encoder):
    with pytest.raises(ValueError, match="power of two"):
        ImageTokenizer(16, patch_size=6)
    with pytest.raises(ValueError, match=r"channels is 12 .* a multiple of 8"):
        ImageTokenizer(**{**SMALL, "channels": 12})
    with pytest.raises(ValueError, match="each at least 3"):
        ImageTokenizer(**{**SMALL, "levels": [4, 2]})
    with pytest.raises(ValueError, match=r"\(3, 8, 8\), the image tokenizer takes \(3, 16, 16\)"):
        tokenizer({"pixels": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)})
    with pytest.raises(ValueError, match=r"a picture of 16 pixels is 16 of them"):
        tokenizer.pixels(torch.zeros(1, 15, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"from 0 to 12, the codebook has 12"):
        tokenizer.pixels(torch.tensor([[12] + [0] * 15]))
    with pytest.raises(ValueError, match="not TextEncoder"):
        Reconstruction(text_encoder)


class Trained(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.tokenizer = ImageTokenizer(**SMALL)
        self.objective = Reconstruction(self.tokenizer)

    def forward(self, inputs):
        seen, target = self.objective.corrupt(inputs)
        return self.objective(self.tokenizer(seen), target)[0]["reconstruction"]

    def gradients(self):
        return {name: parameter.grad for name, parameter in self.tokenizer.named_parameters()}


def on_a_rank(rank):
    trained = Trained()
    part = {"pixels": pictures()["pixels"][[slice(0, 1), slice(1, 3)][rank]]}  # one picture, and two
    replica = torch.nn.parallel.DistributedDataParallel(trained)
    replica(part).backward()
    return trained.gradients()


def test_the_gradient_on_two_ranks_is_that_of_the_whole_batch(on_two_ranks):
    trained = Trained()
    trained(pictures()).backward()
    for found in on_two_ranks(on_a_rank):
        for name, gradient in trained.gradients().items():
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6)
