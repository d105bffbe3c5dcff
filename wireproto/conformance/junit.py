"""The JUnit report of a run, for CI servers."""

import re
from xml.etree import ElementTree

from wireproto.conformance.report import Sum, details
from wireproto.conformance.verdicts import BAD, Result, Verdict

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters not allowed in XML 1.0."""


def junit(total: Sum) -> bytes:
    """Return the report as XML. A verdict that JUnit lacks is in the text."""
    failed = [result for result in total.results if result.spoils]
    skipped = [result for result in total.results if _is_skipped(result)]
    suite = ElementTree.Element(
        "testsuite",
        name=f"conformance of {total.title}",
        tests=str(len(total.results)),
        failures=str(len(failed)),
        errors="0",
        skipped=str(len(skipped)),
        time=f"{total.seconds:.3f}",
        timestamp=total.began.isoformat(timespec="seconds"),
    )
    properties = ElementTree.SubElement(suite, "properties")
    for name, value in (("peer", total.peer), ("suite", total.suite)):
        ElementTree.SubElement(properties, "property", name=name, value=_clean(value))
    for result in total.results:
        case = ElementTree.SubElement(
            suite, "testcase", classname=result.section, name=result.id, time=f"{result.seconds:.3f}"
        )
        if result.spoils:
            message = result.reason or f"it was expected to fail: {result.expected}"
            failure = ElementTree.SubElement(case, "failure", type=result.verdict.value, message=_clean(message))
            failure.text = _clean("\n".join(details(result)))
        elif _is_skipped(result):
            message = f"{result.verdict.value}: {result.expected or result.reason}"
            ElementTree.SubElement(case, "skipped", message=_clean(message))
        elif result.verdict is not Verdict.PASS or result.flaky:
            flake = f", at attempt {result.attempts}" if result.flaky else ""
            ElementTree.SubElement(case, "system-out").text = _clean(f"{result.verdict.value}{flake}: {result.reason}")
    ElementTree.indent(suite)
    report: bytes = ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True)
    return report + b"\n"


def _is_skipped(result: Result) -> bool:
    if result.spoils:
        return False
    return result.verdict in (Verdict.SKIPPED, Verdict.UNIMPLEMENTED, *BAD)


def _clean(text: str) -> str:
    return _NO_XML.sub("\ufffd", text)
