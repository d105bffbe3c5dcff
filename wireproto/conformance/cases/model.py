"""Sessions from a grammar, with our own session as the model: a bounded, seeded part of `fuzz peer`.

A case has the scripts of one theme. If the peer and the model disagree, the script is played a second time and reduced,
and the case names the rule that is broken.
"""

from typing import Final

from wireproto.conformance.case import case
from wireproto.conformance.model.drawing import THEMES, drawn
from wireproto.conformance.model.play import Disagreement, met, play
from wireproto.conformance.model.script import Script
from wireproto.conformance.model.shrink import shrunk
from wireproto.conformance.peer import Peer
from wireproto.conformance.verdicts import Missed
from wireproto.messages import Revision
from wireproto.session import Role

_SEED: Final = 1
_SCRIPTS: Final = {Role.RESPONDER: 40, Role.INITIATOR: 5}
_TIMES: Final = {"handshakes": 6, "frames": 6, "values": 2}
"""Factor for themes whose scripts each end with a different fault."""
_IN_FULL: Final = 4
"""Factor for `--full`."""
_SHRINKING: Final = 10.0
"""Seconds for reducing a script."""
_DEADLINE: Final = 360.0
"""Seconds for the scripts of a theme, because a peer may be slow in each handshake."""
_THEMES: Final = {
    "handshakes": ("a hello or an ack with any content", "HANDSHAKE-ORDER", "HANDSHAKE-SIGNATURE", "HANDSHAKE-PIN"),
    "frames": ("cluster frames of every type, valid and not", "SESSION-IGNORE", "SESSION-BOX", "FRAME-TYPE"),
    "values": ("numbers, texts and frames up to and beyond their limits", "SESSION-BOX", "PAYLOAD-LIMIT"),
    "boxes": ("boxes that are repeated, changed or cut, and wrong lengths", "SESSION-BOX", "LINK-LEN-MAX"),
    "pieces": ("frames in pieces, and several in one piece", "LINK-CHUNKS"),
    "order": ("messages in any order", "SESSION-STATE", "SESSION-IGNORE", "SESSION-END", "HANDSHAKE-ONLY"),
    "pauses": ("pauses shorter than any timer", "SESSION-TIMES"),
    "connections": ("other connections and new sessions", "SESSION-DISPLACE", "SESSION-ROLES"),
}
_NEEDS: Final = {Role.RESPONDER: ("session.pong-each", "session.pong-fields"), Role.INITIATOR: ()}


def _sessions(role: Role, revision: Revision, theme: str) -> None:
    about, *rules = _THEMES[theme]

    @case(
        "model",
        theme + ("-v1" if revision is Revision.V1 else ""),
        *rules,
        roles=(role,),
        revisions=(revision,),
        about=f"Sessions with {about} end as the rules allow.",
        needs=_NEEDS[role],
        deadline=_DEADLINE,
    )
    async def script(peer: Peer) -> None:
        listener = await met(peer)

        async def attempt(script: Script) -> Disagreement | None:
            if not await peer.again():
                return None
            peer.record.clear()
            found = await play(peer, listener, script)
            if crash := await peer.crash():
                raise Missed("a peer that lives on", crash)
            await peer.close()
            return found

        count = _SCRIPTS[role] * _TIMES.get(theme, 1) * (_IN_FULL if peer.settings.full else 1)
        broken, known = peer.settings.broken, set[str]()
        for number in range(count):
            one = drawn(_SEED, number, role, revision, theme, bootstraps=True)
            found = await attempt(one)
            if found is None or found.kind in known or (found.is_certain and found.rule in broken):
                continue
            if (again := await attempt(one)) is None:
                continue
            smallest, named = await shrunk(one, again, attempt, _SHRINKING)
            if named.rule not in broken:
                await attempt(smallest)  # for the record
                raise Missed(named.expected, f"{named.came} (it {named.kind})", named.rule)
            known.add(found.kind)


for _role, _names in THEMES.items():
    for _revision in Revision:
        for _theme in _names:
            _sessions(_role, _revision, _theme)
