"""What a run may cost: hours of training and dollars, over all its attempts."""

from siamdiff.config import Config

HOUR = 3600.0


def cost(config: Config, worker_seconds: float) -> float:
    """Dollars spent: `cluster.price` a GPU hour, `cluster.gpus` of each worker; 0 without a price.

    Args:
        config: resolved configuration.
        worker_seconds: seconds of training, summed over the workers.
    """
    return (config.cluster.price or 0.0) * config.cluster.gpus * worker_seconds / HOUR


def over_budget(config: Config, seconds: float, worker_seconds: float) -> str:
    """Which budget is used up, in words that follow "stopped by"; "" while none is.

    Args:
        config: resolved configuration.
        seconds: seconds of training, of all attempts.
        worker_seconds: the same summed over the workers of each.
    """
    train, hours, dollars = config.train, seconds / HOUR, cost(config, worker_seconds)
    if train.budget_hours is not None and hours >= train.budget_hours:
        return (
            f"its budget ({hours:.2f} of train.budget_hours {train.budget_hours:g} are spent; "
            "raise it to go on)"
        )
    if train.budget_cost is not None and dollars >= train.budget_cost:
        return (
            f"its budget ({dollars:.2f} of train.budget_cost {train.budget_cost:g} dollars are spent; "
            "raise it to go on)"
        )
    return ""
