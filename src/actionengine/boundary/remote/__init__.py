"""Module work on other machines: `QueueRunner` hands work to `RunnerWorker`s over a queue of the durable engine."""

try:
    from actionengine.boundary.remote.queue_runner import QueueRunner
    from actionengine.boundary.remote.runner_worker import RunnerWorker
except ModuleNotFoundError as error:
    if (error.name or "").startswith("actionengine"):
        raise
    raise ImportError(f"the durable engine needs {error.name}: pip install 'actionengine[workflows]'") from error

__all__ = ["QueueRunner", "RunnerWorker"]
