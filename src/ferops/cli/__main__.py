"""`python -m ferops.cli`, as `ferops`."""

from ferops.cli import main

main()
