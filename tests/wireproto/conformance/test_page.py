"""The HTML report, as text and in a browser."""

import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.wireproto.conformance.results import FAILED, FLAKE, PASSED, SKIPPED
from wireproto.conformance.page import page
from wireproto.conformance.report import Sum

HOSTILE = replace(
    FAILED, id="rank1.framing.length-2-to-32", reason="came </script><script>document.title='gone'</script>"
)
TOTAL = Sum("a peer as rank 1, revision 2", [PASSED, FAILED, SKIPPED, FLAKE, HOSTILE])
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def test_the_page_needs_nothing_else() -> None:
    text = page(TOTAL, Path())
    assert not re.findall(r"""(?:src|href)\s*=|url\(|https?:""", text.replace("default-src", "").replace("-src", ""))
    assert "default-src 'none'" in text


def test_nothing_ends_the_script_early() -> None:
    scripts: list[str] = []

    class Scripts(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            scripts.extend([tag] if tag == "script" else [])

    Scripts().feed(page(TOTAL, Path()))
    assert scripts == ["script"]


def browse(file: Path, fragment: str, *options: str) -> str:
    """Return the page in a browser after its script has run."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--no-first-run",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={file.parent / 'profile'}",
            "--virtual-time-budget=2000",
            *options,
            f"{file.as_uri()}{fragment}",
        ],
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
@pytest.mark.parametrize(
    ("fragment", "shown"),
    [
        ("", [PASSED, FAILED, SKIPPED, FLAKE, HOSTILE]),
        ("#verdict=fail", [FAILED, HOSTILE]),
        ("#section=session", [SKIPPED, FLAKE]),
        ("#verdict=pass&section=session", [FLAKE]),
    ],
)
def test_in_a_browser(tmp_path: Path, fragment: str, shown: list[object]) -> None:
    """Filters work by verdict and section; the peer's data is text, not part of the page."""
    file = tmp_path / "report.html"
    file.write_text(page(TOTAL, Path()), encoding="utf-8")
    dom = browse(file, fragment, "--dump-dom")
    found = re.findall(r'<span class="id">([^<]+)</span>', dom)
    assert found == [result.id for result in TOTAL.results if result in shown]
    assert f"{len(shown)} of 5 cases" in dom
    assert "<title>Conformance: a peer as rank 1, revision 2</title>" in dom


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_a_screenshot(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page(TOTAL, Path()), encoding="utf-8")
    picture = tmp_path / "report.png"
    browse(file, "", f"--screenshot={picture}", "--window-size=390,844")
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
