"""rl_zoo3.train with spikerl's algorithms beside its own: --algo proxy_td3.

python zoo/train.py --algo proxy_td3 --env Hopper-v5 --conf-file zoo/proxy_td3.yml
"""

import rl_zoo3.train

from spikerl.policies import ProxyTD3

if __name__ == "__main__":
    rl_zoo3.train.ALGOS["proxy_td3"] = ProxyTD3  # the one table that all of rl_zoo3 looks into
    rl_zoo3.train.train()
