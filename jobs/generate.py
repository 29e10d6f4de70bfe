"""Generates synthetic pairs of image and mask with a trained model; the same command makes what is missing.

python jobs/generate.py --config jobs/configs/demo.yaml --generate.folds 2
"""

from infra.generate import generate
from infra.job import run

if __name__ == "__main__":
    run(generate, __doc__ or "")
