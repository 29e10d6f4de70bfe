"""Trains a Siamese-Diffusion model on a shard set; the same command goes on where an attempt ended.

python jobs/train.py --config jobs/configs/demo.yaml --train.steps 450
"""

from infra.job import run
from infra.train import train

if __name__ == "__main__":
    run(train, __doc__ or "")
