"""The base of the modules: a function with attributes as its options."""

# If torch is not installed, its classes have no type:
# mypy: disallow-subclassing-any=False

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from fastce._call import checks_bridges


class LossModule(torch.nn.Module):
    """A module that calls a function, with its attributes as options."""

    _function: ClassVar[Callable[..., Tensor]]
    _options: ClassVar[tuple[str, ...]]

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a buffer. torch's modules do this with their tensor arguments."""
        if tensor is not None and not isinstance(tensor, Tensor):
            checks_bridges.host_type(name, "a torch tensor", type(tensor).__name__)
        super().register_buffer(name, tensor, persistent)

    def forward(self, input: Tensor, target: Tensor, where: Tensor | None = None) -> Tensor:
        """Return the loss of a batch; `where` is a mask of classes or elements."""
        options = {name: getattr(self, name) for name in self._options}
        return type(self)._function(input, target, where=where, **options)
