"""`python -m fadepth`: the command line."""

from fadepth.cli import main

if __name__ == "__main__":
    main()
