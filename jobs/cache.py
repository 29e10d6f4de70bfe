"""Computes once what the frozen networks make of a set: VAE moments and text states, kept beside its shards.

    python jobs/cache.py --config EXPERIMENT.yaml --train.workers 8

Training with --train.cache true reads it, and makes it first where it is missing. The same command makes what is
missing; with nothing missing it does nothing.
"""

from infra.job import run

if __name__ == "__main__":
    run("infra.cache:cache", __doc__ or "")
