#!/usr/bin/env bash
# torch's SummaryWriter.add_hparams writes True and False as the numbers 1 and 0, so that the HPARAMS
# page of TensorBoard shows a switch as a numeric range; TensorBoard's own writer keeps them booleans.
#
# hparams() in torch.utils.tensorboard.summary asks first whether a value is an int, which every bool
# of Python is. Its branch for booleans stands below and is never reached, with a list of allowed
# values neither. Both writers fill the same protocol buffer, which has a field for each kind.
#
# A cure is to write a switch as the text "True" or "False".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 numpy==2.4.6 tensorboard==2.21.0 'setuptools<81'
cat > "$folder/switch.py" <<'PYTHON'
"""Print which field of the protocol buffer a switch stands in, by both writers."""

import sys

import torch
from tensorboard.plugins.hparams import summary_v2
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard.summary import hparams


def kind(summary) -> str:
    data = HParamsPluginData.FromString(summary.value[0].metadata.plugin_data.content)
    return data.session_start_info.hparams["augment"].WhichOneof("kind")


def declared(summary) -> tuple[int, str]:
    data = HParamsPluginData.FromString(summary.value[0].metadata.plugin_data.content)
    (info,) = data.experiment.hparam_infos
    return info.type, info.domain_discrete.values[0].WhichOneof("kind")


_, of_torch, _ = hparams({"augment": True}, {"loss": 0.0})
experiment, _, _ = hparams({"augment": True}, {"loss": 0.0}, {"augment": [True, False]})
of_tensorboard = summary_v2.hparams_pb({"augment": True})
found = (kind(of_torch), *declared(experiment)[1:], kind(of_tensorboard))
print(f"torch {torch.__version__}: True stands in {found[0]}, an allowed True in {found[1]}")
print(f"tensorboard's hparams_pb: True stands in {found[2]}")
sys.exit(found != ("number_value", "number_value", "bool_value"))
PYTHON
"$folder/venv/bin/python" "$folder/switch.py"
echo "As described: torch writes a switch as a number, TensorBoard as a boolean."
