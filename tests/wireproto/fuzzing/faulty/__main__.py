"""`python -m tests.wireproto.fuzzing.faulty NAME`: a faulty `wireproto codec`; without a fault for `Parser`."""

import json
import sys

from tests.wireproto.fuzzing.faulty.base import Parser
from tests.wireproto.fuzzing.faulty.frames import CODECS, Coded

parser = {**CODECS, "Parser": Parser, "Coded": Coded}[sys.argv[1]]()
for line in sys.stdin:
    sys.stdout.write(json.dumps(parser.answer(bytes.fromhex(line))) + "\n")
    sys.stdout.flush()
