"""ClassTally: precision, recall and F1 of each class, from torchmetrics' counts."""

from torch import Tensor
from torchmetrics.classification import MulticlassStatScores

from modules.metrics.scores import Scores, Tally, class_row, mean_of_rows, ratio


class ClassTally(Tally):
    """Counts of right and wrong classes.

    `macro_…` are means over the classes that are there or were said; `accuracy` is what precision, recall and F1 are
    over all answers together (micro), where each has one class. A score whose denominator is 0 is 0.

    Args:
        classes: names, in the order of their indices.
    """

    def __init__(self, classes: list[str]) -> None:
        super().__init__()
        self.classes = list(classes)
        self.counts = MulticlassStatScores(len(classes), average="none", validate_args=False)

    def update(self, said: Tensor, right: Tensor) -> None:  # type: ignore[override]
        """Add answers.

        Args:
            said: (rows,), int64 class indices.
            right: (rows,), int64.
        """
        if len(right):  # torchmetrics cannot reshape an empty tensor
            self.counts.update(said, right)

    def scores(self) -> Scores:
        counts = (
            self.counts.compute().tolist()
        )  # (classes, 5): hits, false alarms, true negatives, misses, support
        rows = {
            name: class_row(hits, hits + alarms, hits + misses)
            for name, (hits, alarms, _, misses, _) in zip(self.classes, counts, strict=True)
        }
        count = sum(support for *_, support in counts)
        accuracy = ratio(sum(hits for hits, *_ in counts), count)
        return Scores({"accuracy": accuracy, **mean_of_rows(rows)}, count, "samples", rows)

    def reset(self) -> None:
        self.counts.reset()
