"""A robot's control loop: a saved agent, sensors as numpy arrays, a deadline; no torch.

    python robot_loop.py               converts an agent of this repository's zoo first
    python robot_loop.py agent.spk     one for four numbers and two actions, as CartPole has them

The robot is a cart with a pole, simulated here; its period is 20 ms. What runs in this process
needs numpy, gymnasium and numba: converting, at the workstation, is a process of its own.
"""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from spikerl import HardwarePolicy

ZOO = Path(__file__).resolve().parent.parent / "zoo" / "agents" / "dqn" / "CartPole-v1_1"
PERIOD = 0.02  # seconds
CYCLES = 500


def converted() -> str:
    command = ["convert", ZOO, "--output", "robot.spk", "--sim-steps", "16"]
    subprocess.run([sys.executable, "-m", "spikerl", *command], check=True, capture_output=True)
    return "robot.spk"


class Cart:
    """Mass 1 kg with a pole of 0.1 kg and half length 0.5 m; a motor pushes with 10 N."""

    def __init__(self) -> None:
        self.state = np.random.default_rng(0).uniform(-0.05, 0.05, 4)

    def sensors(self) -> np.ndarray:
        """Position, speed, angle and its speed."""
        return self.state.astype(np.float32)

    def push(self, force: float) -> None:
        """Euler's step through the equations of Barto, Sutton & Anderson (1983)."""
        _, speed, angle, turning = self.state
        sine, cosine = np.sin(angle), np.cos(angle)
        pull = (force + 0.05 * turning**2 * sine) / 1.1
        twist = (9.8 * sine - cosine * pull) / (0.5 * (4 / 3 - 0.1 * cosine**2 / 1.1))
        rates = np.array([speed, pull - 0.05 * twist * cosine / 1.1, turning, twist])
        self.state = self.state + PERIOD * rates

    def fell(self) -> bool:
        return abs(self.state[0]) > 2.4 or abs(self.state[2]) > np.radians(12)


robot, seconds = Cart(), []
with HardwarePolicy(sys.argv[1] if len(sys.argv) > 1 else converted(), backend="cpu") as policy:
    policy.predict(robot.sensors())  # the first decision compiles: make it before the motor is on
    while len(seconds) < CYCLES and not robot.fell():
        start = time.perf_counter()
        action, _ = policy.predict(robot.sensors())
        seconds.append(time.perf_counter() - start)
        robot.push(10.0 if action == 1 else -10.0)

milliseconds = 1000 * np.array(seconds)
print(f"{len(seconds)} cycles of {1000 * PERIOD:.0f} ms, {'fell' if robot.fell() else 'upright'}")
for name, share in (("median", 0.5), ("99 %", 0.99), ("slowest", 1.0)):
    print(f"  {name:<8}{np.quantile(milliseconds, share):8.3f} ms per decision")
print(f"  {int((milliseconds > 1000 * PERIOD).sum())} decisions came later than the period allows")
assert "torch" not in sys.modules
