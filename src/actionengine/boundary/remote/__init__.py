"""Module work on other machines: a runner that puts requests in a queue, and workers that take them.

`QueueRunner` hands module work to `RunnerWorker`s in other processes, over the durable engine.
"""

try:
    from actionengine.boundary.remote.queue_runner import QueueRunner
    from actionengine.boundary.remote.runner_worker import RunnerWorker
except ModuleNotFoundError as error:
    if (error.name or "").startswith("actionengine"):
        raise
    raise ImportError(f"the durable engine needs {error.name}: pip install 'actionengine[workflows]'") from error

__all__ = ["QueueRunner", "RunnerWorker"]
