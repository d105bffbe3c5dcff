"""The state diagrams of spec/protocol.md, drawn from the session's tables."""

import sys
from collections import defaultdict
from pathlib import Path
from typing import Final

from wireproto.messages import ClusterMsgType
from wireproto.session import BOX_OPENS, RECEIVES, SENDS, Role, State

BEGIN: Final = "<!-- state-diagrams -->\n"
END: Final = "<!-- /state-diagrams -->"


def state_diagram(role: Role) -> str:
    """One role's states as a Mermaid diagram."""
    arrows: dict[tuple[State, State], list[str]] = defaultdict(list)
    for sign, table in (("↓", RECEIVES[role]), ("↑", SENDS[role])):
        for state, row in table.items():
            for msg_type, following in row.items():
                if following is not state:
                    arrows[state, following].append(f"{sign} {_with_answer(role, sign, msg_type)}")
            steady = [msg_type.wire_name for msg_type, following in row.items() if following is state]
            if steady:
                arrows[state, state].append(f"{sign} {', '.join(steady)}")
    for state, following in BOX_OPENS.items():
        arrows[state, following].append("first box opens")
    lines = [f"    [*] --> {_id(State.IDLE)}"]
    lines += [f"    {_id(a)} --> {_id(b)}: {', '.join(labels)}" for (a, b), labels in arrows.items()]
    lines += [f"    {_id(State.CLOSED)} --> [*]"]
    return "\n".join(["```mermaid", "stateDiagram-v2", *lines, "```"])


def state_diagrams() -> str:
    """What stands between the markers in spec/protocol.md."""
    return "".join(f"\n{role.value.capitalize()}:\n\n{state_diagram(role)}\n" for role in Role) + "\n"


def with_diagrams(text: str) -> str:
    """The specification's text, its diagrams as the tables are now."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + state_diagrams() + END + after


def _with_answer(role: Role, sign: str, msg_type: ClusterMsgType) -> str:
    answered = role is Role.RESPONDER and sign == "↓" and msg_type is ClusterMsgType.HANDSHAKE_HELLO
    return msg_type.wire_name + (" / ↑ handshakeAck" if answered else "")


def _id(state: State) -> str:
    return state.value.replace(" ", "_")


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(with_diagrams(path.read_text()))
