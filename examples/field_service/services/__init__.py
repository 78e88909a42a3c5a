"""One action in a file, in a folder for each domain; `config.py` declares the services."""
