"""The port of publishers, and one module for each publisher."""
