"""Vibration of a rolling-element bearing, healthy or with one damaged part, as an accelerometer hears it.

Physics, each with its source:
- A part with a defect strikes the others at a fixed number of times a turn, given by the bearing's geometry
  (Randall & Antoni 2011, Rolling element bearing diagnostics - a tutorial, Mechanical Systems and Signal
  Processing 25, 485-520, equations 1 to 4).
- Every strike makes a resonance of the housing ring and decay; strikes on the turning inner race come and go
  with the load zone once a turn, those of a rolling element with the cage (McFadden & Smith 1984, Model for
  the vibration produced by a single point defect in a rolling element bearing, Journal of Sound and Vibration
  96, 69-82).
- Rolling elements slip: the time between strikes varies by about 1 % (Randall & Antoni, section 2.3).
- Healthy or not, there are harmonics of the shaft (unbalance, misalignment), the mesh of a gear with its
  sidebands, and noise through the same resonance.
The geometry is that of the deep groove ball bearing 6205, whose orders are known from the data of Case
Western Reserve University (outer race 3.585, inner race 5.415, rolling element 4.714 strikes a turn).
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

Condition = Literal["healthy", "outer race", "inner race", "rolling element"]
FAULTS: tuple[Condition, ...] = ("outer race", "inner race", "rolling element")

BALLS, BALL_MM, PITCH_MM = 9, 7.94, 39.04  # of a 6205; contact angle 0
RATIO = BALL_MM / PITCH_MM
CAGE = (1 - RATIO) / 2  # turns of the cage in a turn of the shaft
ORDERS: dict[Condition, float] = {  # strikes a turn
    "outer race": BALLS / 2 * (1 - RATIO),
    "inner race": BALLS / 2 * (1 + RATIO),
    "rolling element": PITCH_MM / BALL_MM * (1 - RATIO**2),  # it meets both races as it spins
}
SLIP = 0.01  # standard deviation of the time between strikes, relative
SHAFT_HZ = 29.95  # 1797 turns a minute
TEETH = 11  # of the gear, so that its mesh lies under the resonance
RESONANCE_HZ, DAMPING = 1150.0, 0.06


def vibration(
    condition: Condition, steps: int, rate: float, severity: float, random: np.random.Generator
) -> np.ndarray:
    """Acceleration [steps] float32 at `rate` Hz, in units of the shaft's own vibration at full load.

    severity: height of a strike. Load, speed, phases and noise are drawn anew in each call.
    """
    load = random.uniform(0.5, 1.0)
    wander = np.cumsum(random.normal(0, 1, steps)) / math.sqrt(rate)  # of the speed, slow
    speed = SHAFT_HZ * (1 + random.uniform(-0.02, 0.02) + 0.003 * np.tanh(wander))
    turns = np.cumsum(speed) / rate + random.uniform()
    angle = 2 * np.pi * turns

    wave = np.zeros(steps)
    for harmonic, height in ((1, 1.0), (2, 0.5), (3, 0.2)):
        wave += load * height * np.cos(harmonic * angle + random.uniform(0, 2 * np.pi))
    sidebands = 1 + 0.3 * np.cos(angle + random.uniform(0, 2 * np.pi))
    wave += load * 0.4 * sidebands * np.cos(TEETH * angle + random.uniform(0, 2 * np.pi))

    response = ring(rate)
    wave += random.normal(0, 0.05, steps)
    wave += np.convolve(random.normal(0, 0.05, steps), response)[:steps]
    if condition != "healthy":
        wave += severity * np.convolve(strikes(condition, turns, random), response)[:steps]
    return wave.astype(np.float32)


def strikes(condition: Condition, turns: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Heights [steps] of the strikes of a damaged part at the steps where they fall, 0 elsewhere.

    turns [steps]: how far the shaft has turned.
    """
    span = turns[-1] - turns[0]
    gaps = 1 / ORDERS[condition] * (1 + SLIP * random.normal(0, 1, int(span * ORDERS[condition] * 1.1) + 8))
    at = turns[0] + random.uniform(0, gaps[0]) + np.cumsum(gaps)
    at = at[at < turns[-1]]
    heights = 1 + 0.1 * random.normal(0, 1, len(at))
    if condition == "inner race":  # the defect turns with the shaft through the load zone
        heights *= np.clip(np.cos(2 * np.pi * at), 0, None) ** 0.5 + 0.1
    elif condition == "rolling element":
        heights *= 0.55 + 0.45 * np.cos(2 * np.pi * CAGE * at)
    found = np.zeros(len(turns))
    np.add.at(found, np.searchsorted(turns, at), heights)
    return found


def ring(rate: float) -> np.ndarray:
    """How the housing answers a strike: its resonance, decayed to a thousandth, of height 1 about."""
    omega = 2 * np.pi * RESONANCE_HZ
    seconds = np.arange(int(math.log(1000) / (DAMPING * omega) * rate) + 1) / rate
    return np.exp(-DAMPING * omega * seconds) * np.cos(omega * math.sqrt(1 - DAMPING**2) * seconds)
