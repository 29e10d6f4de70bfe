"""Runs all stages of one configuration: ingest, train, generate, evaluate.

    python jobs/experiment.py                               the demo on phantoms
    python jobs/experiment.py --data.source MYFOLDER        images/ and masks/ of one's own

Finished stages are skipped.
"""

from infra.experiment import experiment
from infra.job import run

if __name__ == "__main__":
    run(experiment, __doc__ or "", costly=("train", "generate"))
