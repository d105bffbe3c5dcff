"""The real worker, but it ends without a word once it has its order."""

import os

from bootstrap import worker

worker.run = lambda order, emit: os._exit(7)
worker.main()
