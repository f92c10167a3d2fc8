"""Let ``python -m landcover`` run the command line."""

from landcover.cli import main

main()
