"""`python -m elmanctl`: the command line without an installed script."""

from elmanctl.start import main

main()
