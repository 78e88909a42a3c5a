"""What the library costs, each time beside a named peer in the same run: `make bench`."""
