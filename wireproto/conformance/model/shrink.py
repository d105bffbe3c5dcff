"""Reduces a script that shows a disagreement, and finds the broken rule from the parts that cannot be removed."""

import json
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from random import Random
from typing import Final

import msgspec

from wireproto.codec.frame import decode_frame, encode_frame
from wireproto.conformance.frames import BOOTSTRAP, PING
from wireproto.conformance.model.introductions import RULES
from wireproto.conformance.model.play import CRASHES, Disagreement
from wireproto.conformance.model.script import Act, Form, Script
from wireproto.errors import WireError
from wireproto.messages import EXTENSIONS
from wireproto.session.seal import NONCE

Play = Callable[[Script], Awaitable[Disagreement | None]]
"""Plays a script to a fresh peer."""
_ALIKE: Final = 6
"""Equal bytes of two nonces that are not a coincidence."""
_DEEP: Final = 100
_FLAT: Final = re.compile(rb"\[[^\[\]{}]+\]|\{[^\[\]{}]*\}")
"""An array or object without nested ones."""
_NUMBER: Final = re.compile(rb"-?[0-9.eE+-]+")
_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[ \t\r\n]+|[^\s{}\[\],:"]+', re.S)


async def shrunk(script: Script, found: Disagreement, play: Play, seconds: float) -> tuple[Script, Disagreement]:
    """Return the smallest script found in time that shows the disagreement, and its disagreement."""
    shrinking = _Shrinking(script, found, play, time.monotonic() + seconds)
    await shrinking.run()
    named = shrinking.found
    acts = shrinking.script.acts
    rule = _rule(acts, named) if shrinking.is_done else None
    if rule is None and named.does == "takes" and await shrinking.takes_anything():
        rule = "SESSION-BOX"
    if rule is None and named.does == "does not take" and named.rule not in _CONNECTIONS:
        rule = next((rule for rule in map(_rule_of_content, reversed(acts)) if rule is not None), None)
    return shrinking.script, named if rule is None else replace(named, rule=rule)


class _Shrinking:
    def __init__(self, script: Script, found: Disagreement, play: Play, deadline: float) -> None:
        self.script = script
        self.found = found
        self.is_done = False
        """Whether there was time to try everything."""
        self._play = play
        self._deadline = deadline

    async def run(self) -> None:
        before = None
        while before != self.script and time.monotonic() < self._deadline:
            before = self.script
            await self._drop_acts()
            if self.found.does == CRASHES:
                await self._cut_bytes()
            else:
                await self._simplify()
        self.is_done = before == self.script

    async def takes_anything(self) -> bool:
        """Return whether the peer accepts any frame of the last act's type, without decoding it."""
        *before, last = self.script.acts
        if last.do != "frame" or len(last.data) <= 2:
            return False
        for payload in (b"?", b"0"):
            malformed = msgspec.structs.replace(last, data=last.data[:2] + payload.hex())
            found = await self._play(msgspec.structs.replace(self.script, acts=(*before, malformed)))
            if found is None or found.does != "takes":
                return False
        return True

    async def _drop_acts(self) -> None:
        size = len(self.script.acts)
        while size:
            at = 0
            while at < len(self.script.acts):
                acts = self.script.acts
                if not await self._try(acts[:at] + acts[at + size :]):
                    at += size
            size //= 2

    async def _cut_bytes(self) -> None:
        """Remove irrelevant bytes from a script that causes a crash."""
        for at, act in enumerate(self.script.acts):
            data = bytes.fromhex(act.data)
            size = len(data) // 2
            while size:
                start = 0
                while start < len(data):
                    shorter = data[:start] + data[start + size :]
                    acts = self.script.acts
                    simpler = msgspec.structs.replace(acts[at], data=shorter.hex())
                    if shorter and await self._try((*acts[:at], simpler, *acts[at + 1 :])):
                        data = shorter
                    else:
                        start += size
                size //= 2

    async def _simplify(self) -> None:
        for at in range(len(self.script.acts)):
            progress = True
            while progress:
                progress = False
                for simpler in _simpler(self.script.acts[at]):
                    acts = self.script.acts
                    if await self._try((*acts[:at], simpler, *acts[at + 1 :])):
                        progress = True
                        break

    async def _try(self, acts: tuple[Act, ...]) -> bool:
        """Use these acts if they show the same. Which frame was refused shows only once the others are removed."""
        if not acts or time.monotonic() > self._deadline:
            return False
        script = msgspec.structs.replace(self.script, acts=acts)
        found = await self._play(script)
        if found is None or not _is_alike(found, self.found):
            return False
        self.script, self.found = script, found
        return True


def _is_alike(one: Disagreement, other: Disagreement) -> bool:
    if one.does == other.does == "takes":
        return (one.kind, one.rule) == (other.kind, other.rule)
    return all((one.does == each) == (other.does == each) for each in ("takes", CRASHES))


def _simpler(act: Act) -> Iterator[Act]:
    """Yield reduced forms of the act, the smallest first."""
    defaults = {field.name: field.default for field in msgspec.structs.fields(Act)}
    for name in ("part", "cuts", "joined", "pause", "early", "stays"):
        if getattr(act, name) != defaults[name]:
            yield msgspec.structs.replace(act, **{name: defaults[name]})
    if len(act.cuts) > 1:
        for at in range(len(act.cuts)):
            yield msgspec.structs.replace(act, cuts=act.cuts[:at] + act.cuts[at + 1 :])
    if act.do == "introduce":
        for flag in Form:
            if Form(act.at % 16) & flag:
                yield msgspec.structs.replace(act, at=act.at ^ flag.value)
    if act.count > 1:
        yield msgspec.structs.replace(act, count=act.count // 2)
        yield msgspec.structs.replace(act, count=act.count - 1)
    if act.nonce:
        fresh = Random(act.nonce).randbytes(NONCE).hex()
        if not act.nonce.startswith("00"):
            yield msgspec.structs.replace(act, nonce=f"00{fresh[2:]}")
    for frame in _simpler_frames(bytes.fromhex(act.data)) if act.do in ("frame", "tensor") else ():
        yield msgspec.structs.replace(act, data=frame.hex())


def _simpler_frames(frame: bytes) -> Iterator[bytes]:
    try:
        canonical = encode_frame(decode_frame(frame, extensions=EXTENSIONS), extensions=EXTENSIONS)
    except WireError:
        canonical = frame
    if canonical != frame:
        yield canonical
    members = _members(frame[1:])
    if members is None:
        if len(frame) > 2:
            yield frame[: len(frame) // 2 + 1]
            yield frame[:1] + frame[len(frame) // 2 :]
        return
    for at in range(len(members)):
        yield _joined(frame, members[:at] + members[at + 1 :])
    tokens = _TOKEN.findall(frame[1:])
    for change in (_without_space, _without_escapes):
        if (simpler := frame[:1] + b"".join(map(change, tokens))) != frame:
            yield simpler
    for match in _FLAT.finditer(frame):
        yield frame[: match.start()] + (b"[]" if match[0][:1] == b"[" else b"0") + frame[match.end() :]
    for at, token in enumerate(tokens):
        plain = b"0" if _NUMBER.fullmatch(token) else b'""' if token.startswith(b'"') else token
        if plain != token:
            yield frame[:1] + b"".join((*tokens[:at], plain, *tokens[at + 1 :]))


def _members(text: bytes) -> list[bytes] | None:
    """Return the members of a JSON object in any encoding, or None."""
    tokens = _TOKEN.findall(text)
    if b"".join(tokens) != text or text.strip()[:1] != b"{" or text.strip()[-1:] != b"}":
        return None
    members, depth = [b""], 0
    for token in tokens:
        depth += (token in (b"{", b"[")) - (token in (b"}", b"]"))
        if depth == 1 and token == b",":
            members.append(b"")
        elif depth > 1 or (depth == 1 and token != b"{") or (members[-1] and token in (b"}", b"]")):
            members[-1] += token
    last = members[-1].rstrip()
    members[-1] = last.removesuffix(b"}") if depth == 0 else last
    return [each for each in members if each.strip()]


def _joined(frame: bytes, members: list[bytes]) -> bytes:
    return frame[:1] + b"{" + b",".join(members) + b"}"


def _without_space(token: bytes) -> bytes:
    return b"" if token.isspace() else token


def _without_escapes(token: bytes) -> bytes:
    if not token.startswith(b'"') or b"\\" not in token:
        return token
    try:
        return json.dumps(json.loads(token), ensure_ascii=False).encode()
    except ValueError:
        return token


# -- the rule ---------------------------------------------------------------------------------------------------------

_CONNECTIONS: Final = ("SESSION-REPLACE", "SESSION-ROLES")


def _rule(acts: tuple[Act, ...], found: Disagreement) -> str | None:
    """Return the broken rule that a reduced script shows; None for that of the model."""
    if any(act.cuts or act.joined or act.early for act in acts):
        return "LINK-CHUNKS"
    if found.does in ("takes", "sends") or found.rule in _CONNECTIONS:
        return None
    if any(act.pause for act in acts):
        return "SESSION-TIMES"
    if any(act.do == "strangers" for act in acts):
        return "SESSION-DISPLACE"
    if _have_alike_nonces(acts):
        return "SEAL-LAYOUT"
    return None


def _have_alike_nonces(acts: tuple[Act, ...]) -> bool:
    nonces = [bytes.fromhex(act.nonce) for act in acts if act.nonce]
    return any(act.do == "others" and act.count > 1 for act in acts) or any(
        one != other and sum(a == b for a, b in zip(one, other, strict=True)) > _ALIKE
        for at, one in enumerate(nonces)
        for other in nonces[at + 1 :]
    )


_FORMS: Final = {
    Form.UNKNOWN_KEY: "JSON-UNKNOWN-KEY",
    Form.WHITE_SPACE: "JSON-TEXT",
    Form.ESCAPES: "JSON-STRING",
    Form.ORDER: "JSON-KEYS",
}


def _rule_of_content(act: Act) -> str | None:
    """Return the rule that allows the unusual feature of a hello or valid frame, or else the one to accept it."""
    if act.do == "introduce":
        return RULES.get(act.part) or next((rule for flag, rule in _FORMS.items() if Form(act.at % 16) & flag), None)
    frame = bytes.fromhex(act.data)
    if act.do != "frame" or frame == PING:
        return None
    try:
        canonical = encode_frame(decode_frame(frame, extensions=EXTENSIONS), extensions=EXTENSIONS)
    except WireError:
        return None
    members, usual = _members(frame[1:]), _members(canonical[1:])
    if members is None or usual is None:
        return None
    tokens = _TOKEN.findall(frame[1:])
    if any(text.count(b"[") + text.count(b"{") > _DEEP for text in members):
        return "JSON-NESTING"
    if len(members) > len(usual):
        return "JSON-UNKNOWN-KEY"
    if any(token.isspace() for token in tokens):
        return "JSON-TEXT"
    if b"\\" in frame:
        return "JSON-STRING"
    if any(_NUMBER.fullmatch(token) and token != b"0" for token in tokens):
        return "PAYLOAD-BOOTSTRAP" if frame[:1] == BOOTSTRAP[:1] else "JSON-INTEGER"  # a port has its own limits
    return "JSON-KEYS" if members != usual else None
