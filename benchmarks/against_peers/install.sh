#!/bin/sh
# A virtual environment for each peer under the folder $1, none of which may pull another torch.
set -e
here=$(dirname "$0")
constraints="$here/../../constraints.txt"
for peer in pfl flower nvflare; do
    python3 -m venv "$1/$peer"
    "$1/$peer/bin/pip" install -q torch==2.13.0 numpy==2.4.6
done
"$1/pfl/bin/pip" install -q pfl==0.6.0 || echo "pfl does not install here"
"$1/flower/bin/pip" install -q -c "$constraints" 'flwr[simulation]' opacus ||
    echo "Flower does not install here"
"$1/nvflare/bin/pip" install -q nvflare==2.9.0 || echo "NVFlare does not install here"
for peer in pfl flower nvflare; do
    "$1/$peer/bin/pip" list 2>/dev/null | grep -E '^(torch|pfl|flwr|ray|opacus|nvflare) '
done
