"""`python -m bonbon`, for launchers that take a module: `accelerate launch --module bonbon`."""

from bonbon.cli.main import main

main()
