"""Tests of the tests: code is broken on purpose, one line at a time, and the tests beside it have to notice.

`python -m tests.mutation [part...]` breaks the parts that `parts.toml` names, all of them where none is named; of
`part:function,function` it breaks these functions (or SQL objects) alone. Python is broken by mutmut, SQL by `sql`, and
`by_hand.toml` has breaks that no tool thinks of. What no test notices is a survivor. `survivors.toml` names each one
with the reason why it may live; one that is not there fails the run, as does a part of which less than 90 % is noticed.
"""
