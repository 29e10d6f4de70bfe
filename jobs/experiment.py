"""Runs all stages: ingest, train, generate, evaluate, segment; of one configuration, or of each setting of a sweep.

    python jobs/experiment.py                               the demo on phantoms
    python jobs/experiment.py --data.source MYFOLDER        images/ and masks/ of one's own
    python jobs/experiment.py --config EXPERIMENT.yaml --experiment.sweep table5     the paper's ablation

Finished stages are skipped.
"""

from infra.job import run

if __name__ == "__main__":
    run("infra.experiment:experiment", __doc__ or "", costly=("train", "generate"))
