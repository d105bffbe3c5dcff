"""Output of results: JSON, text, JUnit, the exit code, captures."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.wireproto.conformance.results import FAILED, FLAKE, PASSED, REACHED, SKIPPED
from wireproto.conformance.artifacts import save
from wireproto.conformance.junit import junit
from wireproto.conformance.page import page
from wireproto.conformance.report import Sum, as_object, details, headline
from wireproto.conformance.verdicts import MAX_RECORDED, Record, Result, Verdict
from wireproto.session import Role


def test_a_case_in_json() -> None:
    shown = json.loads(json.dumps(as_object(FAILED)))
    assert shown["event"] == "case"
    assert (shown["id"], shown["verdict"], shown["level"]) == ("rank1.framing.length-zero", "fail", "MUST")
    assert shown["requirements"] == ["LINK-LEN-MIN"]
    assert shown["failure"]["requirement"] == "LINK-LEN-MIN"
    assert [entry["kind"] for entry in shown["log"]] == ["step", "sent", "step", "received", "end"]
    assert shown["log"][1]["bytes"] == "00" * 8
    assert shown["rerun"].endswith("rank1.framing.length-zero")


def test_a_pass_in_json_is_short() -> None:
    assert not {"log", "reason", "failure", "expected"} & set(as_object(PASSED))


@pytest.mark.parametrize(
    ("results", "code"),
    [
        ([PASSED], 0),
        ([PASSED, SKIPPED, FLAKE], 0),
        ([PASSED, replace(PASSED, verdict=Verdict.NON_STRICT)], 0),
        ([PASSED, replace(PASSED, verdict=Verdict.UNIMPLEMENTED)], 0),
        ([PASSED, FAILED], 1),
        ([PASSED, replace(FAILED, verdict=Verdict.INCONCLUSIVE)], 1),
        ([PASSED, replace(FAILED, expected="known")], 0),
        ([replace(PASSED, expected="known")], 1),
        ([replace(SKIPPED, expected="known")], 0),
        ([REACHED], 3),
    ],
)
def test_the_exit_code(results: list[Result], code: int) -> None:
    assert Sum("a peer", results).exit_code == code


def test_the_summary() -> None:
    total = Sum("a peer", [PASSED, FAILED, FLAKE, replace(PASSED, expected="known")])
    shown = total.as_object()
    assert shown["event"] == "summary"
    assert shown["verdicts"] == {
        "pass": 3, "crash": 0, "fail": 1, "non-strict": 0, "unimplemented": 0, "inconclusive": 0, "skipped": 0
    }  # fmt: skip
    assert shown["flakes"] == [FLAKE.id]
    assert shown["unexpected_passes"] == [PASSED.id]
    assert shown["exit_code"] == 1


def test_details() -> None:
    text = "\n".join(details(FAILED))
    for part in (
        "[LINK-LEN-MIN] A length of 0 is an error",
        "expected the end of the connection",
        "got      nothing",
        f"#1 > {'00' * 8}",
        "#1 < ff",
        "again: wireproto conform peer",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (FLAKE, "a flake: attempt 2"),
        (replace(PASSED, expected="known"), "expected to fail: known"),
        (replace(FAILED, expected="known"), "as expected: known"),
    ],
)
def test_headlines(result: Result, text: str) -> None:
    assert text in headline(result)


def test_junit() -> None:
    odd = replace(FAILED, reason="a zero \0 and \ud800 in what came")
    total = Sum(
        "a peer", [PASSED, odd, SKIPPED, FLAKE, replace(FAILED, expected="known"), replace(PASSED, expected="k")]
    )
    suite = ElementTree.fromstring(junit(total))  # noqa: S314 - our own
    assert {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped")} == {
        "tests": "6", "failures": "2", "errors": "0", "skipped": "2"
    }  # fmt: skip
    cases = suite.findall("testcase")
    failure = cases[1].find("failure")
    assert failure is not None
    assert (failure.get("type"), failure.get("message")) == ("fail", "a zero \ufffd and \ufffd in what came")
    assert "[LINK-LEN-MIN]" in (failure.text or "")
    assert [case.get("name") for case in cases if case.find("skipped") is not None] == [SKIPPED.id, FAILED.id]
    assert cases[3].findtext("system-out", "").startswith("pass, at attempt 2")


def test_what_is_kept_of_a_failure(tmp_path: Path) -> None:
    saved = save(FAILED, tmp_path, Role.RESPONDER)
    assert save(PASSED, tmp_path, Role.RESPONDER) == PASSED
    names = [f"{FAILED.id}.{kind}" for kind in ("keylog", "pcapng", "svg")]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert (tmp_path / f"{FAILED.id}.keylog").read_text() == "CLUSTER_SESSION_KEY 00 11\n"
    assert (tmp_path / f"{FAILED.id}.pcapng").read_bytes()[:4] == bytes.fromhex("0a0d0d0a")
    assert saved.picture == str(tmp_path / f"{FAILED.id}.svg")
    assert Path(saved.picture).read_text().startswith("<svg ")
    assert f"    picture: {saved.picture}" in details(saved)
    assert f'"picture": "{FAILED.id}.svg"' in page(Sum("a peer", [saved]), tmp_path)


def test_a_record_has_a_limit() -> None:
    record = Record()
    for _ in range(3):
        record.received(bytes(MAX_RECORDED // 2 + 1), 1)
    kept = [entry for entry in record.entries if entry.data]
    assert sum(len(entry.data) for entry in kept) == MAX_RECORDED
    assert kept[-1].text == "2 more bytes, not kept"
