"""The library behind the `tfcli` command: one folder per stage and shared folders below them. Read README.md first."""
