"""The real worker, but its import of mlx.core takes $IMPORT_SECONDS longer."""

import os
import sys
import time

from bootstrap import worker


class SlowImport:
    @staticmethod
    def find_spec(name, path, target=None):
        if name == "mlx.core":
            time.sleep(float(os.environ["IMPORT_SECONDS"]))


sys.meta_path.insert(0, SlowImport)
sys.exit(worker.main())
