"""Codecs with one fault each"""

import json
import sys
import time

from wireproto import Revision, WireError, decode_frame
from wireproto.conformance.contract import expected_answer


def main(fault: str) -> None:
    for line in sys.stdin:
        if fault == "ends":
            return
        if fault == "hangs" or (fault == "hangs-after-pongs" and not line.startswith("04")):
            time.sleep(60)
        print(answer(fault, line.strip()), flush=True)  # noqa: T201


def answer(fault: str, text: str) -> str:
    match fault:
        case "takes-everything":
            return '{"ok": true, "type": 255, "payload": {}}'
        case "refuses-everything":
            return '{"ok": false, "error": "no", "offset": 0}'
        case "hangs-after-pongs":
            return json.dumps(expected_answer(bytes.fromhex(text), Revision.V2))
        case "half-a-pair":
            return '{"ok": true, "type": 10, "payload": {"uid": "\\ud800"}}'
        case "quadratic":
            time.sleep((len(text) / 4e5) ** 2)
            return json.dumps(expected_answer(bytes.fromhex(text), Revision.V2))
        case "names-a-list":
            return '{"ok": false, "error": ["EOF"]}'
        case "nonsense":
            return "here you are"
        case "own-names":
            try:
                decode_frame(bytes.fromhex(text))
            except WireError as error:
                name = "BOM" if error.code == "json-bom" else "ERROR"
                return json.dumps({"ok": False, "error": name, "offset": error.offset})
            return '{"ok": true}'
        case "plain":
            answer = expected_answer(bytes.fromhex(text), Revision.V2, has_extensions=False)
            return json.dumps(answer or {"ok": False})
        case "dies-of-nesting":
            if bytes.fromhex(text).endswith(b"[") and text.count("5b") > 500:
                print("out of stack", file=sys.stderr)  # noqa: T201
                raise SystemExit(70)
            return json.dumps(expected_answer(bytes.fromhex(text), Revision.V2))
    raise SystemExit(2)


if __name__ == "__main__":
    main(sys.argv[1])
