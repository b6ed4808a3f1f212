"""``python -m platform_db`` is the command line."""

from platform_db.cli import main

if __name__ == "__main__":
    main(prog_name="platform-db")
