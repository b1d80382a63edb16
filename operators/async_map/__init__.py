"""Apply a coroutine to every item of a keyed stream, many at a time, each before its deadline. Bytewax has none of it.

    executor = Executor(capacity=2_000, concurrency=64, clock=SystemClock(), name="prices")
    terms = AsyncMap(executor=executor, fn=ask, item_type=Question, deadline_of=lambda question: question.due_ms, ...)
    answers = async_map("ask", questions, terms)

What holds:

- **One output per item.** It is that of `fn`, `on_timeout`, `on_shed`, `on_error` or `settle`. Only a fault of the
  program (an exception without `on_error`) stops the flow, with `CrashError`.
- **Deadline.** Whatever comes first, `fn` or the deadline, is the output; what comes second changes nothing. `fn` is
  cancelled at the deadline and keeps its turn until it has really ended. An item that still waits for its turn at the
  deadline gets `on_timeout` and never runs. Each item has one timer on the event loop, and no thread.
- **Bounds.** `capacity` counts items from their arrival until their outputs leave. An item beyond it is shed at once.
  `on_batch` never waits for a free place: the worker runs all keys, and while one of them waited, the finished outputs
  of all others could not leave. `concurrency` bounds what runs; the others wait in the order of their arrival.
- **Order.** With `order_of`, outputs of equal order keys leave in the order of arrival, shed and settled ones included:
  one that is done early waits. Other outputs leave as they come about.
- **In flight is in the snapshot.** At every snapshot an item is in exactly one place: input not read yet, snapshot, or
  output emitted. The snapshot holds inputs, by field name and versioned. After a crash they are issued again with
  `attempt + 1` and what is left of their time.
- **Effectively once.** With a `Journal`, outputs that an earlier process has logged are not made again. `fn` itself may
  run once more for an item after every crash.
- **End of input** waits for all jobs, and so does a stop that ends the sources. After any other stop they are in the
  snapshot.
- **Latency.** Outputs are looked for every 2 ms while something of the key is in flight.
"""

from operators.async_map.executor import Done, Executor, Job
from operators.async_map.journal import Journal
from operators.async_map.step import AsyncMap, async_map

__all__ = ["AsyncMap", "Done", "Executor", "Job", "Journal", "async_map"]
