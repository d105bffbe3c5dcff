"""A report of the doctor's checks for a bug tracker, without anything that identifies its author."""

import getpass
import json
import os
import re
import socket
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from importlib import metadata
from ipaddress import IPv4Address, IPv4Network, ip_address
from pathlib import Path
from typing import Final

from bootstrap.doctor.checks import Check
from bootstrap.tools import Call

_LONGEST: Final = 64 * 1024
"""Characters of a tool's output that are kept."""
_LINK_LOCAL: Final = IPv4Network("169.254.0.0/16")
_LINK_PREFIX: Final = 24
"""The assumed network prefix of a link."""

_KEY: Final = re.compile(r"-----BEGIN [^-]*-----.*?-----END [^-]*-----|[A-Za-z0-9+/]{86}==", re.DOTALL)
_FINGERPRINT: Final = re.compile(r"\b[0-9a-f]{4}(?::[0-9a-f]{4}){3}\b")
_MAC: Final = re.compile(r"\b[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){5,7}\b")
_UUID: Final = re.compile(r"\b[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}\b")
_NUMBER: Final = re.compile(r"\b(?:0x)?[0-9A-Fa-f]{16}\b")  # GUIDs, and the unique numbers of Thunderbolt switches
_MADE_UP_NAME: Final = re.compile(r"\b[A-Za-z0-9][\w-]*(?:\.[\w-]+)*\.(?:local|lan|home|internal|fritz\.box)\b", re.I)
_SERIAL: Final = re.compile(r'("(?:serial\w*|service_key_key|\w*serial\w*key)"\s*:\s*)"[^"]*"', re.I)
_IPV4: Final = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.]|:ffff)")
_IPV6: Final = re.compile(
    r"(?<![\w:.])(?:::(?:ffff:)?\d{1,3}(?:\.\d{1,3}){3}|(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4})(?![\w:.]*[\w:])"
)


class Redaction:
    """Replaces keys, names of hosts and users, and unrelated addresses with numbered placeholders.

    Addresses of the link's network, loopback and link-local ones stay: the report is about them.
    """

    def __init__(self, link: Iterable[str], names: Iterable[str]) -> None:
        self._networks = [IPv4Network(f"{ip}/{_LINK_PREFIX}", strict=False) for ip in link]
        self._seen: dict[tuple[str, str], str] = {}
        own = (socket.gethostname(), os.uname().nodename, _user())
        words = {part for name in (*own, *names) for part in (name, name.partition(".")[0])}
        found = sorted((re.escape(word) for word in words if _is_telling(word)), key=len, reverse=True)
        self._names = re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(found)})(?![A-Za-z0-9])", re.I) if found else None
        self._home = str(Path.home())

    def __call__(self, text: str) -> str:
        if len(self._home) > 1:
            text = text.replace(self._home, "~")
        for kind, pattern in (
            ("key", _KEY),
            ("uuid", _UUID),
            ("fingerprint", _FINGERPRINT),
            ("mac", _MAC),
            ("number", _NUMBER),
            ("name", _MADE_UP_NAME),
            ("name", self._names),
        ):
            if pattern is not None:
                text = pattern.sub(lambda match, kind=kind: self._placeholder(kind, match[0]), text)  # type: ignore[misc]
        text = _SERIAL.sub(r'\1"<serial>"', text)
        return _IPV4.sub(self._address, _IPV6.sub(self._address, text))

    def _address(self, match: re.Match[str]) -> str:
        try:
            address = ip_address(match[0])
        except ValueError:
            return match[0]  # a version, or a time
        mapped = address if isinstance(address, IPv4Address) else address.ipv4_mapped
        if address.is_loopback or address.is_link_local or address.is_unspecified or _is_mask(address):
            return match[0]
        if mapped is not None and (mapped in _LINK_LOCAL or any(mapped in network for network in self._networks)):
            return match[0]
        return self._placeholder("address", match[0].lower())

    def _placeholder(self, kind: str, text: str) -> str:
        count = sum(each == kind for each, _ in self._seen) + 1
        return self._seen.setdefault((kind, text), f"<{kind} {count}>")


def write_report(options: dict[str, object], checks: Sequence[Check], calls: Sequence[Call], redact: Redaction) -> str:
    """Return the report: versions, options, each check with its evidence, and the tools' output."""
    versions = {"python": sys.version.split()[0], **{name: _version(name) for name in ("cluster-wireproto", "mlx")}}
    lines = ["# jaccl-bootstrap doctor", "", "## Versions and options", ""]
    lines += [f"- {name}: {value}" for name, value in (versions | options).items()]
    lines += ["", "## Checks", ""]
    lines += [
        json.dumps({name: value for name, value in asdict(check).items() if value is not None}) for check in checks
    ]
    lines += ["", "## Output of the system's tools", ""]
    for argv, result in calls:
        if argv[0] == sys.executable:
            argv = (Path(argv[0]).name, "(the MLX probe)")
        status = result.status if result.returncode is None else f"{result.status}, exit status {result.returncode}"
        lines += [f"### {' '.join(argv)}: {status}", "", (result.stdout + result.stderr)[:_LONGEST].rstrip(), ""]
    return "".join(c if c.isprintable() or c in "\n\t" else "?" for c in redact("\n".join(lines)))


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


def _is_telling(word: str) -> bool:
    """Whether a word identifies a person or place."""
    return len(word) > 1 and word.lower() not in ("localhost", "root", "mac") and not _IPV4.fullmatch(word)


def _is_mask(address: object) -> bool:
    """Whether it is a netmask or the broadcast address."""
    return isinstance(address, IPv4Address) and int(address) >= 0xF0000000
