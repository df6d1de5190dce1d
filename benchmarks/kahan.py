"""Linear layers of `alia-carbon`: products of float64 tiles, added in a fixed order by Kahan's method.

Its trainer for PyTorch promises bit-exact training. On a CPU it replaces linear layers and nothing else: attention's
products, norms, softmax and the optimizer stay PyTorch's, whose bits depend on the processor.
"""

from importlib import metadata

import torch
from torch import nn

from verification.errors import UserError

PACKAGE, VERSION = "alia-carbon", "0.2.1"


def through_kahan(model: nn.Module) -> nn.Module:
    """Return the model as the package's trainer makes it; raises UserError where that version is not installed."""
    try:
        found = metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        found = "no version"
    if found != VERSION:
        raise UserError(f"{found} of {PACKAGE} is installed: pip install {PACKAGE}=={VERSION}")
    import carbon

    # The weights are other ones afterwards, so the optimizer that it wants beforehand is of no use.
    unused = torch.optim.SGD(model.parameters(), lr=0.0)
    made: nn.Module = carbon.DeterministicTrainer(model, unused, replace_linear=True).model
    return made
