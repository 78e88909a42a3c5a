"""Module work on other machines: `QueueRunner` hands work to `RunnerWorker`s over a queue of the durable engine."""

from actionengine._lazy import attach

__getattr__, __dir__ = attach(__name__)
