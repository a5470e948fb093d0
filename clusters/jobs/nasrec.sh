#!/usr/bin/env bash
# A click-through model for late flights (NASRec), as a job, to its report.
#   RAY_API_SERVER_ADDRESS=http://127.0.0.1:8265 clusters/jobs/nasrec.sh --set study=s3://bucket/nasrec --set search.evaluations=50
# A token is read from RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN, with RAY_AUTH_MODE=token.
set -euo pipefail
cd "$(dirname "$0")/../.."
export RAY_API_SERVER_ADDRESS="${RAY_API_SERVER_ADDRESS:-${RAY_ADDRESS:-http://127.0.0.1:8265}}"
ours() { PYTHONPATH="platform:${PYTHONPATH:-}" python "$@"; } # of a checkout, else the installed one
example=examples/nasrec-flights.yaml
[[ -f $example ]] || ours -m manynet examples "$example"
run=("$example" --set "study=$PWD/runs/nasrec-flights" "$@")
# Ray would say a wrong token in a traceback, and a wrong key only after the upload.
ours -m manynet submit --check "${run[@]}"
# Manynet goes with the job: nodes need not have it, and run what is here.
manynet=$(ours -c 'import manynet; print(manynet.__path__[0])')
environment='{"py_modules": ["'$manynet'"], "excludes": ["/.ci/", "/benchmarks/", "/docs/", "/platform/", "/runs/", "/tests/"]}'
exec ray job submit --working-dir . --runtime-env-json "$environment" -- python -m manynet run "${run[@]}"
