"""The cost of the library, against a named peer in the same run: `make bench`."""
