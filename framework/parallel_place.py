"""Which of several processes this one is, and where the others are: told by train.py, torchrun or Slurm."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from framework.errors import ConfigError

PORTS = range(20_000, 30_000)  # where Slurm's jobs meet, by their number; below what systems hand out


class Ended(Exception):
    """This worker ends because of another one, which tells the user why."""


@dataclass(frozen=True, slots=True)
class Place:
    """Process `rank` of `world`, number `local_rank` of the `local_world` on its machine.

    meeting: how torch.distributed finds the others (`env://`, `tcp://host:port`, `file:///path`). restarted:
    the group died before and was started again. bound: others started it, and may show it its own GPU alone.
    """

    rank: int
    world: int
    local_rank: int
    local_world: int
    meeting: str
    restarted: bool = False
    bound: bool = False


def outer_place(env: Mapping[str, str]) -> Place | None:
    """The place that torchrun or Slurm's srun has given this process; None when neither started it.

    torchrun: https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables. Slurm:
    https://slurm.schedmd.com/srun.html#SECTION_OUTPUT-ENVIRONMENT-VARIABLES; the number of tasks of the step
    counts, since a batch script outside of srun has that of the job, too. Raises ConfigError for a list of
    machines that cannot be read.
    """
    if "RANK" in env and "WORLD_SIZE" in env and "MASTER_ADDR" in env:
        world = int(env["WORLD_SIZE"])
        return Place(
            int(env["RANK"]),
            world,
            int(env.get("LOCAL_RANK", "0")),
            int(env.get("LOCAL_WORLD_SIZE", "1")),
            "env://",
            int(env.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0,
            True,
        )
    tasks = int(env.get("SLURM_STEP_NUM_TASKS", "1"))
    if tasks < 2 or "SLURM_PROCID" not in env:
        return None
    host = env.get("MASTER_ADDR") or first_host(env.get("SLURM_STEP_NODELIST", ""))
    job = int(env.get("SLURM_JOB_ID", "0")) + int(env.get("SLURM_STEP_ID", "0"))
    port = int(env.get("MASTER_PORT") or PORTS[job % len(PORTS)])
    node = int(env.get("SLURM_NODEID", "0"))
    return Place(
        int(env["SLURM_PROCID"]),
        tasks,
        int(env.get("SLURM_LOCALID", "0")),
        tasks_of_node(env.get("SLURM_STEP_TASKS_PER_NODE", str(tasks)), node),
        f"tcp://{host}:{port}",
        int(env.get("SLURM_RESTART_COUNT", "0")) > 0,
        True,
    )


def first_host(nodes: str) -> str:
    """The first machine of Slurm's list: "gpu[03-05,9],cpu1" -> "gpu03"."""
    match = re.match(r"([^,\[\]]+)(?:\[([^\],-]+)[^\]]*\]([^,\[\]]*))?(?:,|$)", nodes)
    if match is None:
        cause = f"its list of machines cannot be read: '{nodes}'"
        raise ConfigError("SLURM_STEP_NODELIST", cause, "Set MASTER_ADDR to the first of them.")
    return match[1] + (match[2] or "") + (match[3] or "")


def tasks_of_node(counts: str, node: int) -> int:
    """Tasks on machine number `node` of Slurm's counts: "2(x3),1" is 2 on each of three, then 1."""
    found: list[int] = []
    for each in counts.split(","):
        number, times = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", each).groups()  # type: ignore[union-attr]
        found += [int(number)] * int(times or 1)
    return found[node]
