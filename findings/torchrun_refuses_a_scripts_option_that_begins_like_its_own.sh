#!/usr/bin/env bash
# torchrun refuses to start a script whose option is the beginning of two of torchrun's own, wherever
# the option stands behind the script's name: evaluate.py --run NAME ends in "ambiguous option".
#
# argparse looks for abbreviations in all arguments before it knows that those behind the script are
# the script's. An option that begins one of torchrun's options alone, or is one of them, goes through
# (--role does); each of torchrun's two-word options has two spellings, --run-path and --run_path, and
# is therefore ambiguous whenever it is abbreviated. --run, --no, --max and --start are all such.
#
# A cure is "--" before the script's name.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy==2.4.6
cd "$folder"
echo 'import sys; print("the script has", *sys.argv[1:])' > evaluate.py
"$folder/venv/bin/python" -c 'import torch; print("torch", torch.__version__)'

try() {
    echo "torchrun $*:"
    "$folder/venv/bin/torchrun" "$@" > said 2>&1 || true
    grep -oE "the script has .*|error: ambiguous option: --[a-z]+" said
}

{
    for option in --run --no --max --start --role --name; do
        try --nproc-per-node 1 evaluate.py "$option" word
    done
    try --nproc-per-node 1 -- evaluate.py --run word
} | tee found
diff <(grep -v ^torchrun found) - <<'EXPECTED'
error: ambiguous option: --run
error: ambiguous option: --no
error: ambiguous option: --max
error: ambiguous option: --start
the script has --role word
the script has --name word
the script has --run word
EXPECTED
echo "As described: four options of a script are refused, and -- lets them through."
