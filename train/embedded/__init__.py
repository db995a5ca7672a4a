"""How the model that ships was made: each module is a command, `python -m train.embedded.NAME`."""
