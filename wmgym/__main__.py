"""``python -m wmgym``: the command line."""

from wmgym.app.cli import main

if __name__ == "__main__":
    main()
