"""Trains segmenters on real, on real and synthetic, and on synthetic pairs, and scores them on real test images.

    python jobs/segment.py --config jobs/configs/demo.yaml
    python jobs/segment.py --config EXPERIMENT.yaml --segment.arms real,real+3 --segment.networks unet,segformer-b0

Needs the sets that ingest and generate made. All goes under ROOT/segmentation; the same command makes what is missing.
"""

from infra.job import run

if __name__ == "__main__":
    run("infra.segment:segment", __doc__ or "")
