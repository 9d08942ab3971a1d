"""Idle: trainable parameters that no loss depends on stay as they are, under DDP as in one process."""

from torch import Tensor, nn


class Idle:
    """Parameters that the first loss does not lead to, such as a projection where no objective reads embeddings.

    In one process they get no gradient, and the optimiser leaves them alone. DDP waits for the gradient of every
    parameter and would stop at the second step. There `join` lets the loss depend on them, times zero, and `release`
    takes the gradient of zero away again, with which the optimiser would let them decay.
    """

    def __init__(self) -> None:
        self.parameters: dict[str, nn.Parameter] | None = None
        """By name; None until there was a loss."""

    def find(self, module: nn.Module, loss: Tensor) -> None:
        """Look for the parameters of a module that a loss does not lead to."""
        reached = leaves(loss)
        self.parameters = {
            name: parameter
            for name, parameter in module.named_parameters()
            if parameter.requires_grad and parameter not in reached
        }

    def join(self, loss: Tensor) -> Tensor:
        """Return the same loss, with a gradient of zero for each of them."""
        for parameter in (self.parameters or {}).values():
            loss = loss + 0.0 * parameter.flatten()[:1].sum()
        return loss

    def release(self) -> None:
        """Take gradients away that are zero throughout."""
        for parameter in (self.parameters or {}).values():
            if parameter.grad is not None and not parameter.grad.any():
                parameter.grad = None


def leaves(outcome: Tensor) -> set[Tensor]:
    """Return the parameters, and other tensors that require a gradient, from which a tensor was computed."""
    found, seen, open_nodes = set(), set(), [outcome.grad_fn]
    while open_nodes:
        node = open_nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == "torch::autograd::AccumulateGrad":
            found.add(node.variable)
        open_nodes += [following for following, _ in node.next_functions]
    return found
