"""`python -m d4c`: the command line."""

from d4c.cli import main

main()
