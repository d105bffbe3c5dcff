"""The real worker, but rank 1 is killed once the group is formed: the others' all_sum fails."""

import os
import signal
import sys

from bootstrap import worker

check_sum = worker.check_sum


def die_or_check(group):
    if group.rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return check_sum(group)


worker.check_sum = die_or_check
sys.exit(worker.main())
