"""Runs a job again, in the same cluster, while it ends with exit code 1.

    python jobs/retry.py 3 jobs/train.py --config EXPERIMENT.yaml

At most 3 times. It ends at once when the job is done (0), was given a mistake (2), or was asked to stop: by a signal,
which is handed on, or by its budget.
"""

import sys

from infra import logs, retry
from siamdiff.errors import UserError

if __name__ == "__main__":
    logs.in_job()
    try:
        match sys.argv[1:]:
            case ["-h" | "--help"]:
                sys.stdout.write(__doc__ or "")
            case [times, job, *arguments] if times.isdigit():
                sys.exit(retry.run(int(times), [sys.executable, job, *arguments]))
            case given:
                raise UserError(
                    f"{' '.join(given) or 'nothing'!r} given; a number of runs and a job are needed"
                )
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
