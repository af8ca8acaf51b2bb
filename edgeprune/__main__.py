"""`python -m edgeprune` is the same as the command `edgeprune`."""

from edgeprune.cli import main

if __name__ == "__main__":
    main()
