#!/usr/bin/env bash
# torch 2.13.0: get_optimizer_state_dict, called before the first step, takes a step of its own with zero gradients to
# have a state to return. Adam then counts the first real step as its second: its first update is .744 of what it would
# be, and all later ones differ too. A guess would be that a getter leaves the optimizer as it was. Whoever looks for a
# checkpoint to continue from (loading into what the getter returns) and finds none has changed the run: ask only after
# a checkpoint was found.
#
# Seen on 2026-12-01 with torch 2.13.0+cpu, Python 3.11, Adam, lr 0.1:
#   first update 0.1000 at step 1; after the getter 0.0744 at step 2
# Fails where the getter changes neither.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
cpu=https://download.pytorch.org/whl/cpu
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check torch==2.13.0 numpy==2.3.5 --index-url "$cpu" --extra-index-url https://pypi.org/simple
"$folder/venv/bin/python" - <<'PYTHON'
import torch
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict


def first_update(look):
    torch.manual_seed(0)
    net = torch.nn.Linear(4, 4)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
    if look:
        get_optimizer_state_dict(net, optimizer)
    before = net.weight.detach().clone()
    net(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()
    return (net.weight.detach() - before).abs().mean().item(), int(optimizer.state[net.weight]["step"])


plain, looked = first_update(False), first_update(True)
print("first update {:.4f} at step {}; after the getter {:.4f} at step {}".format(*plain, *looked))
assert abs(plain[0] - 0.1) < 1e-6
assert plain[1] == 1
assert looked != plain, "the getter leaves the optimizer alone now"
PYTHON
