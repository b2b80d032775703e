"""Your own trained SB3 agent on three back ends: the same decisions, what they cost, how fast."""

import gymnasium as gym
import torch
from stable_baselines3 import PPO

import spikerl
from spikerl.evaluation import evaluate

torch.set_num_threads(1)
relu = {"activation_fn": torch.nn.ReLU}  # one neuron a unit; tanh needs a dozen
model = PPO("MlpPolicy", "CartPole-v1", n_steps=512, policy_kwargs=relu, seed=0, device="cpu")
model.learn(10_000)
agent = spikerl.convert(model, sim_steps=16, n_calibration=2_000, target="nest")

usable = [name for name, state in spikerl.backends.available().items() if state.usable]
for backend in [name for name in ("cpu", "nest", "spikingjelly", "torch") if name in usable][:3]:
    with spikerl.HardwarePolicy(agent, backend, seed=0) as policy:
        result = evaluate(policy, lambda: gym.make("CartPole-v1"), original=model, episodes=2)
    side, counted = result.spiking, result.cost.operations
    print(f"{backend}: return {side.mean_return}, agreement {result.agreement},")
    print(f"  {counted.effective_acs:,.0f} ACs and {side.latency_ms:.2f} ms a decision")
