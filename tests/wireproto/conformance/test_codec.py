"""Codecs under test: this project's, and some with faults."""

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.forks import run_text
from wireproto.conformance import Result, Verdict
from wireproto.conformance import program as program_module
from wireproto.conformance.codec import BY_VERDICT, run_codec
from wireproto.conformance.codec_cases import CodecCase, GrowthCase, codec_cases, vector_cases
from wireproto.conformance.growth import measuring
from wireproto.conformance.program import Program
from wireproto.messages import Revision

OURS = [sys.executable, "-m", "wireproto", "codec"]
SCRIPT = Path(__file__).parent / "scripts" / "codec.py"


VECTORS = list(vector_cases(Revision.V2))


def wrong(fault: str) -> list[str]:
    return [sys.executable, str(SCRIPT), fault]


def results(
    command: list[str],
    codes: dict[str, str] | None = None,
    cases: Sequence[CodecCase | GrowthCase] = VECTORS,
    revision: Revision = Revision.V2,
) -> list[Result]:
    async def main() -> list[Result]:
        return [result async for result in run_codec(Program(command), cases, revision=revision, codes=codes)]

    return asyncio.run(main())


@pytest.mark.parametrize("revision", Revision)
def test_our_own(revision: Revision) -> None:
    """The vectors; tests/test_readme.py has the generated frames and times of revision 2, through the command."""
    cases = list(vector_cases(revision))
    found = results([*OURS, "--revision", str(int(revision))], cases=cases, revision=revision)
    assert {result.id: result.reason for result in found if result.verdict is not Verdict.PASS} == {}
    assert len(found) == len(cases) > 30


def test_one_that_takes_everything() -> None:
    found = results(wrong("takes-everything"))
    assert {result.verdict for result in found if result.verdict is not Verdict.UNIMPLEMENTED} == {Verdict.FAIL}


def test_one_that_refuses_everything() -> None:
    """It refuses invalid frames with unknown error names, which count as none."""
    found = results(wrong("refuses-everything"))
    counts = Counter(result.verdict for result in found)
    valid = sum(case.questions[0].answer["ok"] for case in VECTORS if case.questions[0].answer)
    assert counts == {Verdict.FAIL: valid, Verdict.PASS: len(found) - valid}
    assert {result.reason for result in found if result.verdict is Verdict.PASS} == {BY_VERDICT}


def test_error_names_are_mapped() -> None:
    plain = results(wrong("own-names"))
    mapped = results(wrong("own-names"), {"BOM": "json-bom", "ERROR": "json-utf8"})
    passed = [result for result in plain if result.verdict is Verdict.PASS]
    assert {result.reason for result in passed} == {BY_VERDICT}
    by_id = {result.id: result for result in mapped}
    assert by_id["codec.bom"].verdict is Verdict.PASS
    assert not by_id["codec.bom"].reason
    assert by_id["codec.utf-16-le"].verdict is Verdict.NON_STRICT


def test_a_codec_without_extensions_failed_their_chapter() -> None:
    found = results(wrong("plain"))
    assert {result.id: result.reason for result in found if result.verdict is Verdict.FAIL} == {}
    left_out = [result for result in found if result.verdict is Verdict.UNIMPLEMENTED]
    assert len(left_out) > 20
    assert all(any(each.startswith("EXT-") for each in result.requirements) for result in left_out)


def test_a_codec_that_dies_is_a_crash_and_its_last_words_are_kept() -> None:
    found = {result.id: result for result in results(wrong("dies-of-nesting"))}
    crash = found["codec.nesting-513-unclosed"]
    assert (crash.verdict, crash.stderr) == (Verdict.CRASH, ("out of stack",))
    assert crash.failure is not None
    assert crash.failure.came == "the program exited with exit status 70: out of stack"
    assert found["codec.spaces"].verdict is Verdict.PASS


def test_a_list_as_the_name_of_an_error_ended_the_run() -> None:
    invalid = [each for each in VECTORS if each.questions[0].answer and not each.questions[0].answer["ok"]][:1]
    (found,) = results(wrong("names-a-list"), cases=invalid)
    assert (found.verdict, found.reason) == (Verdict.PASS, BY_VERDICT)


def test_half_a_surrogate_pair_in_an_answer_ended_the_run() -> None:
    valid = [each for each in VECTORS if each.questions[0].answer and each.questions[0].answer["ok"]][:1]
    (found,) = results(wrong("half-a-pair"), cases=valid)
    assert found.failure is not None
    assert found.failure.came == '[10, {"uid": "\\ud800"}]'


def test_one_that_says_nonsense() -> None:
    found = results(wrong("nonsense"), cases=VECTORS[:3])
    assert [result.failure.came for result in found if result.failure] == ["here you are"] * 3


def test_one_that_has_ended_is_told_at_once_though_a_child_of_it_holds_the_pipe() -> None:
    """As `go run` and a shell have one."""
    started = time.monotonic()
    (found,) = results(["sh", "-c", "sleep 60 & echo 'no room' >&2; exit 3"], cases=VECTORS[:1])
    assert (found.verdict, found.stderr) == (Verdict.CRASH, ("no room",))
    assert found.failure is not None
    assert found.failure.came == "the program exited with exit status 3: no room"
    assert time.monotonic() - started < 30


def test_a_generated_case_shows_the_first_frame_that_fails_decoded() -> None:
    (case,) = (each for each in codec_cases(Revision.V2) if each.id == "codec.ping.payload-where-none-belongs")
    (found,) = results(wrong("takes-everything"), cases=[case])
    assert found.failure is not None
    assert found.failure.requirement == "PAYLOAD-EMPTY"
    assert found.reason.endswith("(a byte 0x00; 263 of 263 frames)")
    assert found.record.steps[:2] == ["ask about 0300", "which is ping \x00"]


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (lambda size: size / 1e5, ""),
        (lambda size: 0.02 + size / 1e6, ""),
        (lambda size: (size / 1e5) ** 2, "to the power of 2.0: 12,500 bytes take 0.016 s, 50,000 bytes 0.250 s"),
        (lambda size: 1 + size / 1e5, ""),
    ],
    ids=["linear", "fast", "quadratic", "slow to answer at all"],
)
def test_how_the_time_grows(seconds: Callable[[int], float], told: str) -> None:
    measure, said = measuring(bytes), ""
    frames = next(measure)
    while frames:
        try:
            frames = measure.send(sum(seconds(len(frame)) for frame in frames))
        except StopIteration as end:
            said, frames = end.value, ()
    assert (said.partition("the length ")[2], bool(said)) == (told, bool(told))


def test_a_codec_that_is_slow_by_its_growth() -> None:
    cases = [each for each in codec_cases(Revision.V2) if each.id == "codec.time.arrays"]
    (found,) = results(wrong("quadratic"), cases=cases)
    assert found.verdict is Verdict.NON_STRICT
    assert found.reason.startswith("the time grows as the length to the power of ")


def test_one_that_ends_after_each_answer() -> None:
    """It is restarted, and fails the frames that it did not answer."""
    found = results(wrong("ends"), cases=VECTORS[:4])
    assert [result.verdict for result in found] == [Verdict.FAIL] * 4
    assert {result.failure.came for result in found if result.failure} == {"the end of the program"}


def test_one_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_module, "START_SECONDS", 0.5)
    (found,) = results(wrong("hangs"), cases=VECTORS[:1])
    assert (found.verdict, found.failure and found.failure.came) == (Verdict.FAIL, "no answer in 0.5 s")


def test_one_that_never_answers_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_module, "START_SECONDS", 0.2)
    found = results(wrong("hangs"))
    assert Counter(result.verdict for result in found) == {Verdict.FAIL: 1, Verdict.SKIPPED: len(found) - 1}
    assert found[1].reason == "the program never answered"


def test_one_that_hangs_at_some_frames_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program_module, "ANSWER_SECONDS", 0.2)
    found = results(wrong("hangs-after-pongs"))
    assert Counter(result.verdict for result in found) == {Verdict.FAIL: 3, Verdict.SKIPPED: len(found) - 3}
    assert found[3].reason == "the program did not answer 3 frames in a row"


def test_one_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError):
        results(["/nonexistent/codec"], cases=VECTORS[:1])


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_text("conform", "codec", *arguments)


def test_the_command(tmp_path: Path) -> None:
    html, xml = tmp_path / "r.html", tmp_path / "r.xml"
    one = VECTORS[0].id
    done = command("--json", "--only", one, "--html", str(html), "--junit", str(xml), "--", *OURS)
    case, summary = map(json.loads, done.stdout.splitlines())
    assert (done.returncode, done.stderr) == (0, "")
    assert (case["id"], case["verdict"]) == (one, "pass")
    assert (summary["event"], summary["verdicts"]["pass"]) == ("summary", 1)
    assert one in html.read_text()
    assert one in xml.read_text()


def test_a_failure_comes_with_a_command_that_runs_it_again() -> None:
    one = VECTORS[0].id
    done = command("--json", "--only", one, "--", *wrong("refuses-everything"))
    assert done.returncode == 1
    again = json.loads(done.stdout.splitlines()[0])["rerun"]
    assert again.startswith(f"wireproto conform codec --revision 2 --only {one} -- ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give the codec's command after --"),
        (("--only", "nothing", "--", "true"), "no case matches the case 'nothing'"),
        (("--errors", "/nonexistent", "--", "true"), "cannot read /nonexistent"),
    ],
)
def test_wrong_usage(arguments: tuple[str, ...], message: str) -> None:
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_a_map_to_no_code(tmp_path: Path) -> None:
    names = tmp_path / "names.json"
    names.write_text('{"BOM": "json-bomb"}')
    done = command("--errors", str(names), "--", "true")
    assert done.returncode == 2
    assert "'json-bomb', which is not a code of the spec" in done.stderr


def test_list() -> None:
    done = command("--list", "--level", "must")
    assert done.returncode == 0
    assert all(line.split()[1] == "MUST" for line in done.stdout.splitlines())


def test_a_program_that_cannot_be_started() -> None:
    done = command("--json", "--", "/nonexistent/codec")
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
