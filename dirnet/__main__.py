"""`python -m dirnet` is `dirnet`."""

from dirnet.cli import main

main()
