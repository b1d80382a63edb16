"""`python -m datastreamx.cli`."""

from datastreamx.cli import main

main()
