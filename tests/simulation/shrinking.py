"""Reduces a world to the fewest faults and ranks that break it."""

from collections.abc import Iterator
from dataclasses import replace

from tests.simulation.scenario import Scenario
from tests.simulation.world import World


def shrunk(seed: int) -> Scenario:
    """Return the smallest scenario found that is broken in the same way as the seed's."""
    scenario = Scenario.of(seed)
    wanted = _kinds(seed, scenario)
    while wanted:
        smaller = next((each for each in _smaller(scenario) if wanted & _kinds(seed, each)), None)
        if smaller is None:
            break
        scenario = smaller
    return scenario


def _kinds(seed: int, scenario: Scenario) -> set[str]:
    world = World(seed, scenario)
    world.run()
    return {"".join(each for each in text if each.isalpha() or each == " ")[:40] for text in world.broken}


def _smaller(scenario: Scenario) -> Iterator[Scenario]:
    for index in range(len(scenario.faults)):
        yield replace(scenario, faults=scenario.faults[:index] + scenario.faults[index + 1 :])
    size = len(scenario.plans)
    named = {scenario.stops, *(rank for fault in scenario.faults for rank in (fault.rank, fault.peer))}
    if scenario.reference is not None:
        named.add(scenario.reference.rank)
    if size > 2 and size - 1 not in named:
        plans = [
            replace(plan, ips=plan.ips[:-1], all_ips=plan.all_ips[:-1], link_ports=plan.link_ports[:-1])
            for plan in scenario.plans[:-1]
        ]
        yield replace(scenario, plans=plans, starts=scenario.starts[:-1])
    if any(scenario.starts):
        yield replace(scenario, starts=[0.0] * size)
    if scenario.latency != 0.001:
        yield replace(scenario, latency=0.001)
