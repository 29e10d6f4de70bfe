"""Compares synthetic sets with the real one: distances, mask agreement, contact sheets; all under ROOT/evaluation.

    python jobs/evaluate.py --config jobs/configs/demo.yaml

Needs the sets that ingest and generate made; `--evaluate.synthetic URI` takes another than the latest, and
`--evaluate.synthetic NAME=URI`, once per set, compares several: ours and folders of other methods' images.
"""

from infra.job import run

if __name__ == "__main__":
    run("infra.evaluate:evaluate", __doc__ or "")
