"""`python -m server` is `kvfs`."""

from server.cli import main

if __name__ == "__main__":
    main(prog_name="kvfs")
