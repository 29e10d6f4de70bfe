"""Everything that is held against rendered manifests."""

from tests.k8s import references, rules, schemas
from tests.k8s.rendered import Resource


def problems(resources: list[Resource]) -> list[str]:
    """Of the fields; where those are right, of what they refer to and of the rules."""
    found = [problem for resource in resources for problem in schemas.problems(resource)]
    return found or references.problems(resources) + rules.problems(resources)
