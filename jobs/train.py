"""Trains a Siamese-Diffusion model on a shard set.

    python jobs/train.py --config jobs/configs/demo.yaml --train.steps 450

The same command goes on where an attempt ended; a finished run says so.
"""

from infra.job import run

if __name__ == "__main__":
    run("infra.train:train", __doc__ or "", costly=("train",))
