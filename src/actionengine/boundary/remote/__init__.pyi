"""The public names of actionengine.boundary.remote; `_lazy.attach` reads this table."""

from actionengine.boundary.remote.queue_runner import QueueRunner as QueueRunner  # extra: workflows
from actionengine.boundary.remote.runner_worker import RunnerWorker as RunnerWorker  # extra: workflows
