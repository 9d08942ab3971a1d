"""ContrastiveAudio: what wav2vec 2.0 computes, with distractors and hidden runs that are what they should be."""

import copy

import pytest
import torch

from modules.objectives.contrastive_audio import ContrastiveAudio, draw_distractors
from modules.tokens import Tokens


class Encoded(torch.nn.Module):
    """What an encoder made of sounds, in the place of wav2vec 2.0's own."""

    def __init__(self, context, features):
        super().__init__()
        self.context, self.features = context, features

    def forward(self, *_, **__):
        from transformers.modeling_outputs import Wav2Vec2BaseModelOutput

        return Wav2Vec2BaseModelOutput(last_hidden_state=self.context, extract_features=self.features)


@pytest.fixture
def pair_of_wav2vec2(audio_encoder, audio_inputs):
    """Return a function from an objective to its own losses and the library's outcome on the same tokens and draws."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForPreTraining

    def judge_both(objective, training):
        seen, (spans, hidden) = objective.corrupt(audio_inputs)
        tokens = audio_encoder.eval()(seen)
        config = Wav2Vec2Config(
            hidden_size=audio_encoder.dim,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            conv_dim=(spans.shape[2],),
            conv_stride=(1,),
            conv_kernel=(1,),
            num_feat_extract_layers=1,
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
            num_codevectors_per_group=objective.num_entries // 2,
            codevector_dim=16,
            proj_codevector_dim=16,
        )
        model = Wav2Vec2ForPreTraining(config).train(training)
        model.wav2vec2 = Encoded(tokens.features, objective.norm(spans))
        model.quantizer.load_state_dict(objective.quantizer.state_dict())
        model.project_q.load_state_dict(objective.project_codes.state_dict())
        model.project_hid.load_state_dict(objective.project_context.state_dict())

        count = objective.num_distractors
        luck = copy.deepcopy(objective.distractor_draws).uniform(len(hidden), hidden.shape[1] * count)
        drawn = draw_distractors(hidden, luck.float().unflatten(1, (-1, count)))
        positions = (
            hidden.flatten().nonzero().squeeze(1)
        )  # the library counts all tokens, not the hidden ones
        of_all = torch.zeros(*hidden.shape, count, dtype=torch.int64)
        of_all[hidden] = positions[drawn]
        outcome = model(audio_inputs["waveform"], mask_time_indices=hidden, sampled_negative_indices=of_all)
        losses, _ = objective.train(training)(tokens, (spans, hidden))
        return losses, outcome, (model, hidden, drawn)

    return judge_both


def test_contrast_and_diversity_equal_wav2vec2s_on_the_same_masks_and_distractors(
    audio_encoder, pair_of_wav2vec2
):
    objective = ContrastiveAudio(
        audio_encoder, start_share=0.5, num_distractors=6, num_codes=3, dim=16, diversity_weight=0.3
    )
    losses, outcome, (_, hidden, drawn) = pair_of_wav2vec2(objective, training=False)
    codes = outcome.projected_quantized_states[hidden]
    is_itself = (codes[drawn] == codes.unsqueeze(1)).all(2)
    assert is_itself.any() and not is_itself.all()  # few codes: some distractors are the code itself
    count = hidden.sum()  # ours are means over what is hidden, the library's are sums
    torch.testing.assert_close(count * losses["contrastive_audio"], outcome.contrastive_loss)
    torch.testing.assert_close(count * losses["code_diversity"], 0.3 * outcome.diversity_loss)


def test_diversity_and_its_gradient_equal_wav2vec2s_in_training(audio_encoder, pair_of_wav2vec2):
    objective = ContrastiveAudio(
        audio_encoder, start_share=0.5, num_distractors=6, num_codes=3, dim=16, diversity_weight=1.0
    )
    torch.nn.init.normal_(objective.quantizer.weight_proj.weight, std=0.1)  # no code is certain
    losses, outcome, (model, hidden, _) = pair_of_wav2vec2(objective, training=True)
    ours, theirs = hidden.sum() * losses["code_diversity"], outcome.diversity_loss
    torch.testing.assert_close(ours, theirs)
    (gradient,) = torch.autograd.grad(ours, objective.quantizer.weight_proj.weight)
    assert gradient.abs().max() > 1e-3
    (expected,) = torch.autograd.grad(theirs, model.quantizer.weight_proj.weight)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_diversity_is_the_share_of_codes_that_the_perplexity_leaves_unused(audio_encoder, audio_inputs):
    objective = ContrastiveAudio(audio_encoder, start_share=0.5, num_codes=4, dim=16)
    seen, target = objective.corrupt(audio_inputs)
    losses, scores = objective(audio_encoder(seen), target)
    expected = 0.1 * (8 - scores["code_perplexity"]) / 8
    torch.testing.assert_close(losses["code_diversity"], expected)


def test_diversity_is_no_mean_over_samples_and_says_so(audio_encoder, audio_inputs):
    """Two batches in turn are not one large one; without its weight they are."""
    torch.manual_seed(0)
    objective = ContrastiveAudio(audio_encoder, start_share=0.5, num_codes=4, dim=16).eval()
    _, (spans, hidden) = objective.corrupt(audio_inputs)
    tokens = audio_encoder(audio_inputs)

    def diversity(rows: slice) -> torch.Tensor:
        part = Tokens(tokens.features[rows], tokens.mask[rows])
        return objective(part, (spans[rows], hidden[rows]))[0]["code_diversity"]

    counts = hidden.sum(1).tolist()
    parts = (diversity(slice(0, 1)) * counts[0] + diversity(slice(1, None)) * sum(counts[1:])) / sum(counts)
    assert parts > diversity(slice(None))
    assert objective.compares_samples
    assert not ContrastiveAudio(audio_encoder, num_codes=4, dim=16, diversity_weight=0.0).compares_samples


def test_distractors_are_other_hidden_tokens_of_the_same_row():
    hidden = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [0, 1, 0, 0, 0], [1, 1, 0, 0, 0]]).bool()
    drawn = draw_distractors(hidden, torch.rand(4, 5, 200))
    row = hidden.nonzero()[:, 0]
    assert (row[drawn] == row.unsqueeze(1)).all()
    found = [sorted(set(each.tolist())) for each in drawn]
    assert found == [[1, 2], [0, 2], [0, 1], [3], [5], [4]]


def test_hidden_runs_are_of_the_length_asked_for_within_real_sound(audio_encoder, audio_inputs):
    objective = ContrastiveAudio(audio_encoder, start_share=0.1, run=3, num_codes=4, dim=16)
    _, (_, hidden) = objective.corrupt(audio_inputs)
    assert not hidden[2, 6:].any()  # 0.25 s are three tokens
    torch.manual_seed(3)
    longer = torch.zeros(1, 160000) + torch.randn(1, 160000)
    _, (_, hidden) = objective.corrupt({"waveform": longer, "lengths": torch.tensor([160000])})
    runs = "".join("x" if each else "." for each in hidden[0].tolist()).strip("x").split(".")
    lengths = [len(run) for run in runs if run]
    assert lengths and min(lengths) >= 3
