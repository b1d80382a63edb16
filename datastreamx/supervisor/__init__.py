"""First process of a flow: starts its worker, watches it, starts it again, and tells how it is.

The worker does the work and may crash or hang; nothing here touches Kafka, BigQuery or the state, so that this process
does neither. `supervisor.py` is the loop; `restarts.py`, `silence.py`, `readiness.py` and `view.py` decide, and do no
I/O.
"""

from datastreamx.supervisor.limits import Limits
from datastreamx.supervisor.status import Status, read_status, status_path
from datastreamx.supervisor.supervisor import Job, Supervisor, Verdict

__all__ = ["Job", "Limits", "Status", "Supervisor", "Verdict", "read_status", "status_path"]
