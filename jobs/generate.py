"""Generates synthetic pairs of image and mask with a trained model.

    python jobs/generate.py --config jobs/configs/demo.yaml --generate.folds 2

The same command makes what is missing; with nothing missing it does nothing.
"""

from infra.job import run

if __name__ == "__main__":
    run("infra.generate:generate", __doc__ or "", costly=("generate",))
