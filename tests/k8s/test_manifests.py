"""The manifests have no mistake that can be seen without a cluster, and each mistake of a long list would be seen."""

import sys
from copy import deepcopy

import pytest

from tests.k8s.check import problems
from tests.k8s.mutations import EVERY
from tests.k8s.rendered import OVERLAYS, render


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_has_no_problems(overlay: str) -> None:
    assert problems(render(overlay)) == []


def test_every_broken_copy_is_caught(capsys: pytest.CaptureFixture[str]) -> None:
    assert len({mutation.what for mutation in EVERY}) == len(EVERY)
    missed = []
    for mutation in EVERY:
        whole = render(mutation.overlay)
        broken = deepcopy(whole)
        mutation.change(broken)
        assert broken != whole, f"{mutation.what} changes nothing"
        if not problems(broken):
            missed.append(mutation.what)
    with capsys.disabled():
        sys.stdout.write(f"\nbroken manifests: {len(EVERY) - len(missed)} of {len(EVERY)} caught\n")
    assert missed == []
