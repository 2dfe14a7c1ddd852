"""`python -m tfcli`: the same as the command `tfcli`."""

from tfcli.app import main

if __name__ == "__main__":
    main()
