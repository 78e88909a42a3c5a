"""One action a file, in a folder for each domain; `config.py` declares the services."""
