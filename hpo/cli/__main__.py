"""`python -m hpo.cli` is the command `hpo`."""

from hpo.cli.main import main

main()
