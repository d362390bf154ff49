"""Dropout, switched off: log-ratios and residuals are of one model, not of random parts of it."""

import torch


def disable_dropout(model: torch.nn.Module) -> None:
    """Set every rate of dropout in a model to 0, also those that layers hand on as numbers."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in list(vars(module).items()):
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)
