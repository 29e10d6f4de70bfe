"""What a run may cost."""

from typing import Any

from siamdiff.config import Config
from siamdiff.training import budget


def config(train: dict[str, Any], cluster: dict[str, Any] | None = None) -> Config:
    return Config.model_validate({"root": "/nowhere", "train": train, "cluster": cluster or {}})


def test_without_a_budget_nothing_is_used_up() -> None:
    assert budget.over_budget(config({}), 1e9, 1e9) == ""


def test_hours_count_once_however_many_workers_there_are() -> None:
    limited = config({"budget_hours": 2})
    assert budget.over_budget(limited, 7199, 8 * 7199) == ""
    assert "2.00 of train.budget_hours 2 are spent; raise it" in budget.over_budget(limited, 7200, 7200)


def test_dollars_count_the_gpus_of_every_worker() -> None:
    limited = config({"budget_cost": 10, "workers": 2, "batch_size": 4}, {"price": 2.5, "gpus": 0.5})
    assert budget.cost(limited, 2 * 3600) == 2.5
    assert budget.over_budget(limited, 3 * 3600, 6 * 3600) == ""
    assert "10.00 of train.budget_cost 10 dollars are spent" in budget.over_budget(limited, 0, 8 * 3600)
