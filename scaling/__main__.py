"""`python -m scaling` is the command line."""

from scaling.cli.main import main

if __name__ == "__main__":
    main()
