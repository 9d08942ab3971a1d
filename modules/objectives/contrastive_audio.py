"""Contrastive masked audio: which of these codes is the one that was hidden here, as wav2vec 2.0 asks."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from modules.collectives import global_mean
from modules.encoders.audio import AudioEncoder
from modules.objectives.draws import Draws
from modules.objectives.masked_audio import check_spectrogram, cut_into_spans
from modules.objectives.pretraining import PretrainingObjective
from modules.tokens import Tokens


class ContrastiveAudio(PretrainingObjective):
    """wav2vec 2.0 (arXiv:2006.11477, eq. 3 and 4): contrast with distractors of one sound, plus codebook diversity.

    Differs in that what is quantised is the spectrogram under a token, not the output of convolutions over the
    waveform: the encoder's own features are spectrogram first. The quantiser is transformers' Gumbel quantiser.

    Args:
        encoder: an audio encoder; one of its tokens stands for `encoder.stride` frames of 10 ms.
        start_share: of tokens at which a hidden run begins; runs may overlap.
        run: tokens that are hidden from each start; wav2vec 2.0 hides 200 ms.
        num_distractors: drawn from the other hidden tokens of the same sound.
        num_groups: codebooks.
        num_codes: entries of each.
        dim: width in which codes and predictions are compared.
        temperature: of the contrast.
        diversity_weight: of the diversity loss.
        seed: of what is hidden and of distractors; codes are drawn by PyTorch's own numbers.

    Raises:
        ValueError: when the encoder is another kind.
    """

    def __init__(
        self,
        encoder: AudioEncoder,
        start_share: float = 0.15,
        run: int = 3,
        num_distractors: int = 100,
        num_groups: int = 2,
        num_codes: int = 320,
        dim: int = 256,
        temperature: float = 0.1,
        diversity_weight: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        from transformers import Wav2Vec2Config
        from transformers.models.wav2vec2.modeling_wav2vec2 import Wav2Vec2GumbelVectorQuantizer

        check_spectrogram(encoder, "contrastive masked audio")
        self.draws, self.distractor_draws = Draws(seed), Draws(seed + 1)
        self.log_mel = [encoder.log_mel]  # in a list: it belongs to the encoder
        self.stride, self.start_share, self.run = encoder.stride, start_share, run
        self.num_distractors, self.temperature = num_distractors, temperature
        self.diversity_weight, self.num_entries = diversity_weight, num_groups * num_codes
        width = encoder.stride * encoder.num_mels
        config = Wav2Vec2Config(
            conv_dim=(width,),
            conv_kernel=(1,),
            conv_stride=(1,),
            codevector_dim=dim,
            num_codevector_groups=num_groups,
            num_codevectors_per_group=num_codes,
        )
        self.norm = nn.LayerNorm(width)
        self.quantizer = Wav2Vec2GumbelVectorQuantizer(config)
        nn.init.uniform_(self.quantizer.codevectors)  # as the library's own pretraining model starts it
        nn.init.normal_(self.quantizer.weight_proj.weight)
        nn.init.zeros_(self.quantizer.weight_proj.bias)
        self.project_codes = nn.Linear(dim, dim)
        self.project_context = nn.Linear(encoder.dim, dim)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.updates: Tensor

    @property
    def compares_samples(self) -> bool:  # type: ignore[override]
        """Whether the diversity counts, which is of the codes of a whole batch."""
        return self.diversity_weight > 0

    def corrupt(self, inputs: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor]]:
        """Hide runs of tokens; the target is spectrogram spans (rows, spans, stride x mels) and which were hidden."""
        spans, whole, count = cut_into_spans(self.log_mel[0], self.stride, inputs)
        hidden = self.draws.uniform(*whole.shape).to(whole.device, torch.float32) < self.start_share
        for _ in range(self.run - 1):
            hidden = hidden | nn.functional.pad(hidden, (1, -1))
        hidden = hidden & whole
        return {**inputs, "masked": hidden.repeat_interleave(self.stride, 1)[:, :count]}, (spans, hidden)

    def forward(
        self, tokens: Tokens, target: tuple[Tensor, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Judge the hidden tokens alone."""
        spans, hidden = target
        count = int(hidden.sum())
        # The library's quantiser takes a mean over its input: where nothing is hidden it is given one row of zeros.
        features = self.norm(spans[hidden]) if count else self.norm(spans.new_zeros(1, spans.shape[2]))
        self._cool()
        codes, perplexity = self.quantizer(features.unsqueeze(0))
        codes, context = self.project_codes(codes[0][:count]), self.project_context(tokens.features[hidden])
        luck = self.distractor_draws.uniform(len(hidden), hidden.shape[1] * self.num_distractors)
        luck = luck.to(hidden.device, torch.float32).unflatten(1, (-1, self.num_distractors))
        distractors = codes[draw_distractors(hidden, luck)]
        loss = code_contrast(context, codes, distractors, self.temperature)
        diversity = count * (self.num_entries - perplexity) / self.num_entries
        losses = {
            "contrastive_audio": global_mean(loss.sum(), count),
            "code_diversity": self.diversity_weight * global_mean(diversity, count),
        }
        return losses, {"code_perplexity": perplexity.detach()}

    def _cool(self) -> None:
        """Anneal the Gumbel temperature from 2 to 0.5, as section 4.2 has it."""
        if self.training:
            self.updates += 1
        self.quantizer.temperature = max(0.5, 2 * 0.999995 ** self.updates.item())


def code_contrast(context: Tensor, codes: Tensor, distractors: Tensor, temperature: float) -> Tensor:
    """Return -log softmax of each prediction's cosine with its own code among the others, (hidden,): eq. 3.

    A distractor that is the very code that is asked for does not count.

    Args:
        context: (hidden, dim) predictions.
        codes: (hidden, dim) what is asked for.
        distractors: (hidden, distractors, dim).
        temperature: divides the cosines.
    """
    same = (distractors == codes.unsqueeze(1)).all(2)
    others = cosine_similarity(context.float().unsqueeze(1), distractors.float(), dim=2) / temperature
    right = cosine_similarity(context.float(), codes.float(), dim=1) / temperature
    logits = torch.cat([right.unsqueeze(1), others.masked_fill(same, -torch.inf)], 1)
    return -logits.log_softmax(1)[:, 0]


def draw_distractors(hidden: Tensor, luck: Tensor) -> Tensor:
    """Draw for each hidden token others that are hidden in the same row: (hidden, count), numbers of hidden tokens.

    A row's only hidden token gets itself, which `code_contrast` does not count.

    Args:
        hidden: (rows, tokens), bool.
        luck: (rows, tokens, count), from 0 to 1: of the distractors of each token, with repetition.
    """
    by_row = hidden.sum(1)
    row = hidden.nonzero()[:, 0]
    total, first = by_row[row].unsqueeze(1), (by_row.cumsum(0) - by_row)[row].unsqueeze(1)
    place = torch.arange(len(row), device=hidden.device).unsqueeze(1) - first
    drawn = (luck[hidden] * (total - 1)).long()
    drawn = drawn + ((drawn >= place) & (total > 1))  # past itself
    return first + drawn.minimum(total - 1)
