"""`python -m mergery` is the command line."""

from mergery.cli import run

if __name__ == "__main__":
    run()
