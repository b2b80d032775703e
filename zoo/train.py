"""rl_zoo3.train with spikerl's algorithms and search spaces beside its own.

python zoo/train.py --algo proxy_td3 --env Hopper-v5 --conf-file zoo/proxy_td3.yml
python zoo/train.py --algo ppo --env CartPole-v1 --conf-file zoo/ppo.yml -optimize
"""

import rl_zoo3.train
import search

from spikerl.policies import ProxyTD3

if __name__ == "__main__":
    rl_zoo3.train.ALGOS["proxy_td3"] = ProxyTD3  # the one table that all of rl_zoo3 looks into
    rl_zoo3.train.ExperimentManager = search.Manager  # type: ignore[misc]
    rl_zoo3.train.train()
