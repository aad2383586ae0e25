"""Flat parameter buffers and Adam over them, one row per replica.

All parameters of a network lie in one buffer and every ``nn.Parameter`` is a view of it. So an optimiser step is one
concatenation of gradients, one norm per replica and one fused Adam call; a target network's update is one ``lerp_``;
saving, dropping and copying replicas is indexing.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn


class Parameters:
    """The parameters of stacked modules as views of flat buffers, each (R, numbers per replica).

    Axis 0 of a stacked parameter is ``R * members``. Parameters with the same number of members share a buffer, so that
    each stays a plain view of it. The modules must not be moved or re-pointed afterwards.
    """

    def __init__(self, replicas: int, *modules: nn.Module) -> None:
        self.replicas = replicas
        groups: dict[int, list[nn.Parameter]] = {}
        for module in modules:
            for parameter in module.parameters():
                if parameter.shape[0] % replicas:
                    raise ValueError(f"{tuple(parameter.shape)} is no parameter stacked over {replicas} replicas")
                groups.setdefault(parameter.shape[0], []).append(parameter)
        self._groups = list(groups.values())
        self.tensors: list[Tensor] = [parameter for group in self._groups for parameter in group]
        with torch.no_grad():
            self.buffers = self.flatten(self.tensors)
        self._point()

    def flatten(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Tensors shaped like ``self.tensors`` (their gradients) copied into buffers like ``self.buffers``."""
        buffers, start = [], 0
        for group in self._groups:
            part = tensors[start : start + len(group)]
            buffers.append(torch.cat([t.flatten(1) for t in part], 1).view(self.replicas, -1))
            start += len(group)
        return buffers

    def finite(self) -> Tensor:
        """Whether every weight of a replica is finite, (R,) bool."""
        return torch.stack([buffer.isfinite().all(1) for buffer in self.buffers]).all(0)

    def state(self) -> dict[str, Tensor]:
        return {str(i): buffer for i, buffer in enumerate(self.buffers)}

    def load(self, state: Mapping[str, Tensor]) -> None:
        for i, buffer in enumerate(self.buffers):
            buffer.copy_(state[str(i)])

    def select(self, keep: Sequence[int]) -> None:
        """Keep (or repeat) these replicas, in this order."""
        self.replicas = len(keep)
        self.buffers = [buffer[list(keep)] for buffer in self.buffers]
        self._point()

    def _point(self) -> None:
        self.rows = [buffer.unbind(0) for buffer in self.buffers]
        """Each buffer's rows, one tensor for each replica."""
        for group, buffer in zip(self._groups, self.buffers, strict=True):
            width = sum(parameter[0].numel() for parameter in group)
            rows = buffer.view(-1, width)
            start = 0
            for parameter in group:
                size = parameter[0].numel()
                parameter.data = rows[:, start : start + size].view(-1, *parameter.shape[1:])
                start += size


def polyak(target: Parameters, online: Parameters, tau: float) -> None:
    """target <- (1 - tau) target + tau online; tau = 1 copies."""
    for lagged, buffer in zip(target.buffers, online.buffers, strict=True):
        lagged.lerp_(buffer, tau)


class Adam:
    """Adam (Kingma & Ba 2015, arXiv 1412.6980) per replica: own learning rate, step count and gradient norm.

    Args:
        parameters: what to optimise.
        lr: learning rate; may be set between steps, to one number or to one per replica.
        betas, eps: as in ``torch.optim.Adam``.
        max_grad_norm: limit of the global gradient norm of each replica; None = off.
    """

    def __init__(
        self,
        parameters: Parameters,
        lr: float | Sequence[float],
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        max_grad_norm: float | None = None,
    ) -> None:
        self.parameters = parameters
        self.lr = lr
        self.betas = betas
        self.eps = eps
        self.max_grad_norm = max_grad_norm
        self.first = [torch.zeros_like(buffer) for buffer in parameters.buffers]
        self.second = [torch.zeros_like(buffer) for buffer in parameters.buffers]
        self.steps = parameters.buffers[0].new_zeros(parameters.replicas)
        self._split()

    def step(self, loss: Tensor, active: Sequence[bool] | None = None) -> None:
        """One update of this optimiser's parameters, and of no others, down the gradient of ``loss``, (R,).

        Replicas that are not ``active`` keep weights, moments and step count.
        """
        self.apply(torch.autograd.grad(loss, self.parameters.tensors, self._ones), active)

    @torch.no_grad()
    def apply(self, gradients: Sequence[Tensor], active: Sequence[bool] | None = None) -> None:
        """One update with these gradients, shaped like ``parameters.tensors``."""
        flat = self.parameters.flatten(gradients)
        if self.max_grad_norm is not None:
            clip_rows(flat, self.max_grad_norm)
        self.steps += 1 if active is None else self.steps.new_tensor(active)
        rows = [r for r in range(self.parameters.replicas) if active is None or active[r]]
        if isinstance(self.lr, float):
            self._fused(rows, flat, self.lr)
        else:
            for r in rows:
                self._fused([r], flat, self.lr[r])

    def state(self) -> dict[str, Tensor]:
        first = {f"first.{i}": buffer for i, buffer in enumerate(self.first)}
        second = {f"second.{i}": buffer for i, buffer in enumerate(self.second)}
        return {"steps": self.steps, **first, **second}

    def load(self, state: Mapping[str, Tensor]) -> None:
        self.steps.copy_(state["steps"])
        for i, (first, second) in enumerate(zip(self.first, self.second, strict=True)):
            first.copy_(state[f"first.{i}"])
            second.copy_(state[f"second.{i}"])

    def select(self, keep: Sequence[int]) -> None:
        """Keep (or repeat) these replicas' moments; ``parameters.select`` is called by whoever owns the parameters."""
        rows = list(keep)
        self.first = [buffer[rows] for buffer in self.first]
        self.second = [buffer[rows] for buffer in self.second]
        self.steps = self.steps[rows]
        self._split()
        if not isinstance(self.lr, float):
            self.lr = [self.lr[i] for i in rows]

    def _split(self) -> None:
        """The rows of the moments and of the counts of steps, one tensor for each replica; and a one for each."""
        moments = ([buffer.unbind(0) for buffer in buffers] for buffers in (self.first, self.second))
        self._rows = (*moments, [self.steps.unbind(0)] * len(self.first))
        self._ones = torch.ones_like(self.steps)

    def _fused(self, rows: list[int], gradients: list[Tensor], lr: float) -> None:
        """Adam on these rows, each a tensor of its own: a row's arithmetic must not depend on which others move."""
        split = [gradient.unbind(0) for gradient in gradients]
        weights, slopes, first, second, steps = (
            [views[r] for views in buffers for r in rows] for buffers in (self.parameters.rows, split, *self._rows)
        )
        torch._fused_adam_(
            weights,
            slopes,
            first,
            second,
            [],
            steps,
            lr=lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=0.0,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )


def clip_rows(gradients: Sequence[Tensor], max_norm: float) -> None:
    """Scale each replica's gradients, (R, …) buffers, in place so that their global norm is at most ``max_norm``."""
    norms = [torch.linalg.vector_norm(gradient, dim=1, keepdim=True) for gradient in gradients]
    norm: Tensor = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms), dim=0)
    share = (max_norm / norm).clamp_(max=1.0)
    for gradient in gradients:
        gradient.mul_(share)
