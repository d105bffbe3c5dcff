"""Findings of the simulation, each as the smallest world that shows it."""

from collections.abc import Mapping
from typing import Any

import pytest

from bootstrap.plan import Plan
from tests.simulation.faults import Fault
from tests.simulation.launching import Launch
from tests.simulation.reference import Reference
from tests.simulation.scenario import Scenario, ip, matrix
from tests.simulation.world import Control, World
from wireproto.cli.console import EXIT_COULD_NOT_RUN

LATE = 100.0
LAUNCH_SECONDS = 400.0
"""When the user stops a launch, which has ended before."""


def world(
    *faults: Fault,
    plain: int | None = None,
    stop: float = LATE,
    stops: int = 0,
    late: float = 0.0,
    program_seconds: float = 1.0,
    owns_process: bool = False,
    size: int = 2,
    imports: Mapping[int, float] | None = None,
    timeouts: Mapping[int, float] | None = None,
    reference: Reference | None = None,
    **plan: Any,
) -> World:
    """Run ranks on fast hosts; those after rank 0 are started `late` seconds later.

    `imports` has the seconds of slow imports and `timeouts` the deadlines, by rank.
    """
    plans = [
        Plan(
            rank=rank,
            ips=tuple(map(ip, range(size))),
            link_ports=(7777,) * size,
            extensions=rank != plain,
            **{"backend": "ring", "session_id": "S", **plan},
            **({} if timeouts is None else {"timeout": timeouts[rank]}),
        )
        for rank in range(size)
    ]
    starts = [0.0] + [late] * (size - 1)
    options: dict[str, Any] = {"stop": stop, "stops": stops, "latency": 0.001, "owns_process": owns_process}
    options["reference"] = reference
    made = World(1, Scenario(plans, starts, faults=list(faults), **options))
    for rank, habits in enumerate(made.habits):
        habits.import_seconds, habits.program_seconds = (imports or {}).get(rank, 0.5), program_seconds
    made.run()
    assert made.broken == []
    return made


def launched(*faults: Fault, size: int = 2, program_seconds: float = 1.0, **plan: Any) -> Launch:
    """Launch ranks on fast hosts."""
    ips, ports = tuple(map(ip, range(size))), (7777,) * size
    plans = [
        Plan(rank=rank, ips=ips, link_ports=ports, **{"backend": "ring", "session_id": "S", **plan})
        for rank in range(size)
    ]
    scenario = Scenario(plans, [0.0] * size, LAUNCH_SECONDS, 0, 0.001, list(faults), is_launched=True)
    made = World(1, scenario)
    made.has_terminal = False
    for habits in made.habits:
        habits.import_seconds, habits.program_seconds = 0.5, program_seconds
    made.run()
    assert made.broken == []
    assert made.launcher is not None
    assert made.launcher.process.status is not None
    assert made.launcher.ended_at is not None
    assert made.launcher.ended_at < LAUNCH_SECONDS
    return made.launcher


def cause(control: "Control | Launch") -> tuple[int, str] | None:
    error = control.last("error")
    return None if error is None else (error["rank"], error["code"])


def test_the_link_that_a_restart_has_dropped_was_made_again_only_after_10_s() -> None:
    """This took the whole deadline, and the reported reason was that new session."""
    done = world(
        Fault("crash:program", 0, 0.0), runs="module", command=("this",), timeout=10.0, restarts=1, restart_on="any"
    )
    assert [control.code for control in done.controls] == [0, 0]
    assert all(control.ended < 5 for control in done.controls)


def test_a_rank_0_without_outcome_never_learned_that_rank_1_had_left_its_init() -> None:
    """Rank 1 kept the session for its next attempt, and rank 0's native init waited without end."""
    done = world(Fault("crash:init", 1, 0.0), plain=0, command=("true",), restarts=1, restart_on="any", timeout=10.0)
    zero, one = done.controls
    assert zero.last("link-lost") is not None
    assert one.last("link-lost")["code"] == "link-replaced"  # type: ignore[index]
    assert zero.ended < LATE


def test_the_next_init_met_the_last_one_of_a_rank_without_outcome() -> None:
    """Rank 0 must not reconnect at once: the other rank's worker may still be in its init. World.broken checks it."""
    done = world(Fault("exit:prepared", 0, 0.0), plain=0, restarts=1, restart_on="any", timeout=30.0, stop=25.0)
    again = [event for event in done.controls[0].events if event["event"] == "link-lost"]
    assert [(event["code"], event["retry_s"]) for event in again] == [("link-replaced", 10.0)]


def test_a_rank_0_that_is_stopped_was_taken_for_another_rank_1() -> None:
    """Its system accepts the connection, and nobody closes it."""
    done = world(Fault("freeze", 0, 0.3, seconds=40.0), timeout=20.0, stop=50.0, late=0.5)
    assert cause(done.controls[1]) == (1, "deadline")


def test_a_user_who_stops_a_rank_stops_the_group_whatever_restarts_follow() -> None:
    done = world(stop=10.0, stops=1, restarts=2, restart_on="any")
    assert [control.code for control in done.controls] == [0, 130]
    assert not any(control.last("restarting") for control in done.controls)


def test_the_deadline_of_another_rank_is_followed_by_no_restart() -> None:
    """That rank's run has ended, so no rank would answer."""
    done = world(Fault("hang:init", 1, 0.0), timeout=10.0, restarts=2, restart_on="any", late=3.0)
    assert [cause(control) for control in done.controls] == [(0, "deadline")] * 2
    assert not any(control.last("restarting") for control in done.controls)


def test_after_a_restart_nobody_comes_to_the_reason_is_the_failure_before_it() -> None:
    """The deadline reported only that there was no group."""
    faults = Fault("kill-child", 0, 0.01, "started"), Fault("exit:held", 0, 0.0)
    done = world(*faults, timeout=20.0, restarts=1, restart_on="any")
    assert [cause(control) for control in done.controls] == [(0, "worker-died")] * 2
    assert "no group within 20 s" in done.controls[1].last("error")["message"]  # type: ignore[index]


def test_a_child_that_started_in_the_moment_of_a_stop_was_left() -> None:
    """The run had ended its children by then, and dismissed the guard."""
    done = world(Fault("term", 1, 0.0, "bootstrap-received"), plain=0, command=("true",), timeout=10.0)
    assert done.controls[1].last("started") is not None
    assert done.controls[1].code == 143


def test_the_clock_of_a_gather_ran_on_after_its_attempt() -> None:
    """For up to a minute, into the next attempt or after the run. World.broken says so."""
    done = world(Fault("crash:init", 1, 0.0), backend="jaccl", devices=matrix(2, is_ring=False), timeout=10.0)
    assert [cause(control) for control in done.controls] == [(1, "worker-died")] * 2


def test_a_stop_hid_that_a_process_cannot_be_killed() -> None:
    """The report waited until the strays of the attempt had ended, which the stop cancelled."""
    faults = Fault("unkillable:program", 0, 0.0, seconds=60.0), Fault("kill", 1, 3.0)
    program = {"runs": "module", "command": ("this",), "program_seconds": 30.0, "grace": 1.0}
    done = world(*faults, stop=8.0, owns_process=True, restarts=1, restart_on="any", timeout=20.0, **program)
    zero = done.controls[0]
    assert zero.last("restarting") is not None
    assert "did not end after SIGKILL" in zero.last("warning")["message"]  # type: ignore[index]


@pytest.mark.parametrize("seed", [2216, 7683])
def test_an_unconfirmed_connection_hid_what_the_reference_peer_did_wrong(seed: int) -> None:
    done = replayed(seed)
    assert cause(done.controls[-1]) == (1, "bad-bootstrap")


@pytest.mark.parametrize("stage", ["survey", "start"])
def test_an_answer_that_was_cut_off_was_taken_for_output_of_the_shell(stage: str) -> None:
    """The error named the startup files there, whatever ssh said about the connection."""
    assert cause(launched(Fault(f"ssh-cut:{stage}", 1, 0.0))) == (1, "ssh-lost")


def test_a_host_that_did_not_start_its_rank_was_not_named() -> None:
    """The error was that of another rank, which had waited for it."""
    done = launched(Fault("ssh-silent:start", 1, 0.0), timeout=10.0)
    assert cause(done) == (1, "host-silent")
    assert done.last("error")["message"].startswith("mac-1: ")  # type: ignore[index]


def test_a_launch_whose_ranks_were_never_started_had_no_end() -> None:
    """Only ranks have a deadline, so none was kept."""
    done = launched(*(Fault("ssh-silent:start", rank, 0.0) for rank in range(2)), timeout=10.0)
    assert cause(done) in {(0, "host-silent"), (1, "host-silent")}


def test_the_exit_code_was_that_of_ssh_where_a_connection_was_lost_after_the_failure() -> None:
    """It was 255."""
    done = launched(Fault("end-child", 1, 0.0, "connected"), Fault("cut-off", 1, 0.0016, "error"))
    assert cause(done) == (1, "mlx-crashed")
    assert done.process.status == EXIT_COULD_NOT_RUN


def test_a_rank_that_refused_to_start_gave_the_exit_code_of_a_failed_program() -> None:
    """A launch without a program ended with 125."""
    done = launched(Fault("ssh-version:start", 1, 0.0))
    assert cause(done) == (1, "package-version")
    assert done.process.status == EXIT_COULD_NOT_RUN


def replayed(seed: int) -> World:
    """Run the world of a seed, which keeps all rules."""
    made = World(seed)
    made.run()
    assert made.broken == []
    return made


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(25421, id="a slow ssh starts a rank after the last look"),
        pytest.param(87920, id="stopped before a rank is started again, whose second run had ended before"),
        pytest.param(89908, id="two slow imports on one host"),
        pytest.param(109196, id="a second reference peer replaces the first one"),
        pytest.param(109937, id="a signal waits for a process stuck in the kernel"),
        pytest.param(153753, id="a launch ends without a rank whose disk is slow"),
        pytest.param(164447, id="Ctrl-Z for a process that stands still already"),
        pytest.param(282803, id="a lost packet delays a cause until rank 0 has begun again"),
        pytest.param(524133, id="a worker's alarm while its rank is frozen"),
        pytest.param(782974, id="a rank of revision 1 was frozen until rank 0 connected again"),
        pytest.param(871086, id="a user stops rank 0 while rank 1 is frozen"),
        pytest.param(988075, id="rank 0 ends for one rank while another one is frozen"),
        pytest.param(261128005725, id="a slow network tells a consequence before its cause"),
        pytest.param(677863, id="a slow network tells a consequence before a deadline"),
    ],
)
def test_a_sound_world_was_called_broken(seed: int) -> None:
    replayed(seed)


def test_a_failure_was_told_only_when_the_helpers_of_the_program_had_ended() -> None:
    """By then another rank had reported its own failure, a consequence, as the cause. The helper ignores SIGTERM."""
    done = replayed(80000664)
    assert [cause(control) for control in done.controls] == [(0, "command-failed")] * 3


def test_rank_1_ended_its_connections_in_the_order_of_their_addresses_in_memory() -> None:
    """The same seed then gave two traces, depending on what else was in memory."""
    traces, kept = set(), []
    for number in range(8):
        done = World(500216)
        done.run()
        traces.add("\n".join(done.trace))
        kept.append([object() for _ in range(1007 * number)])
    assert len(traces) == 1


def test_a_rank_waited_for_versions_while_rank_0_waited_for_another_rank() -> None:
    """Rank 2 ended during the last checks before the bootstrap, and rank 1 called rank 0's versions missing."""
    done = replayed(81005184)
    one, _, zero = done.controls
    assert one.last("bootstrap-received") is None
    assert cause(zero) == (0, "link-refused")


def test_a_rank_called_what_it_had_loaded_for_the_last_attempt_loaded_for_the_next_one() -> None:
    """Rank 2 noticed that rank 0 had begun again by its new session, in which its first pong said that MLX was loaded.

    So rank 0 sent the next bootstrap during the import, and missed the versions of rank 2. That took them for a failure
    of the attempt after it.
    """
    done = replayed(261129001467)
    assert [control.last("group-ready") is not None for control in done.controls] == [True] * 3
    assert [cause(control) for control in done.controls] == [(0, "command-failed")] * 3


def test_a_rank_dropped_the_session_that_had_replaced_the_one_of_its_bootstrap() -> None:
    """Rank 0 had begun again first, and without outcome/1 it came back only 10 s later: there was no group in time."""
    done = replayed(143553)
    (two,) = [control for control in done.controls if control.plan.rank == 2]
    lost = [event["code"] for event in two.events if event["event"] == "link-lost"]
    assert lost.count("link-replaced") == 1


def test_a_deadline_while_rank_0_settled_a_failure_was_told_to_nobody() -> None:
    """The others saw a session that ended in order, and called that the cause."""
    done = replayed(161531)
    assert [cause(control) for control in done.controls] == [(1, "deadline"), (0, "deadline"), (0, "deadline")]


@pytest.mark.parametrize(
    "seed", [pytest.param(161651, id="to other ranks"), pytest.param(205508, id="to the rank itself")]
)
def test_a_failure_before_a_restart_was_told_as_rank_0s_own_at_the_next_deadline(seed: int) -> None:
    done = replayed(seed)
    causes = {cause(control) for control in done.controls} - {(1, "host-busy")}
    assert len(causes) == 1
    assert (0, "command-killed") not in causes
    assert (0, "command-crashed") not in causes


def test_a_deadline_hid_a_failure_that_had_been_heard_of() -> None:
    """It came in the 0.25 s in which rank 0 waits for the cause."""
    done = replayed(182029)
    assert [cause(control) for control in done.controls] == [(1, "worker-died"), (1, "worker-died")]


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(173368, id="a stop during the wait for the output of a process that cannot be killed"),
        pytest.param(181866, id="a stop while a reference peer in its init reads nothing"),
    ],
)
def test_a_stopped_rank_left_tasks_to_its_event_loop(seed: int) -> None:
    replayed(seed)


@pytest.mark.parametrize("seed", [702315, 760956])
def test_ctrl_z_did_not_stop_a_child_that_was_starting(seed: int) -> None:
    """Its streams were not connected yet, because the disk was slow, so the run did not have it."""
    replayed(seed)


def test_a_connection_that_was_not_confirmed_hid_what_rank_0_had_not_sent() -> None:
    """Two reference peers as rank 0 replaced each other's sessions until the deadline, which came in a handshake."""
    done = replayed(995621)
    assert [cause(control) for control in done.controls] == [(1, "no-bootstrap")]
