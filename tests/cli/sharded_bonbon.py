"""`bonbon` with weights sharded over processes on CPUs; run by `test_launched.py`."""

from tests.training.parallel_worker import shard_on_cpu

from bonbon.cli.main import main

if __name__ == "__main__":
    shard_on_cpu()
    main()
