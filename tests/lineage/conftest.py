"""One root for all tests of lineage, since the run in it is really trained."""

import pytest

from tests.lineage.roots import write_root


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A root that no test changes."""
    return write_root(tmp_path_factory.mktemp("root") / "r")
