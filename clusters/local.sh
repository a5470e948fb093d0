#!/usr/bin/env bash
# A Ray head on this machine: token authentication on, nothing listening beyond loopback.
#
#   clusters/local.sh start [options of `ray start`]    for example --resources '{"device:board/torch": 1}'
#   clusters/local.sh stop
#
# PORT, DASHBOARD_PORT, HEAD_DIR   where it listens and keeps its session (6379, 8265, /tmp/manynet-head)
# RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH   the token, or its file (~/.ray/auth_token), which is made if it is missing
set -euo pipefail

export RAY_AUTH_MODE=token
# Ray takes 127.0.0.1 for "this machine's address in its network" and then listens on all of them, except where it
# is told that it has no cluster to reach. The name is Ray's; it works on Linux too, for drivers as for the head.
export RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0
# There is no other node to hand work to before this one stops.
export RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S=0

port=${PORT:-6379}
dashboard=${DASHBOARD_PORT:-8265}
home=${HEAD_DIR:-/tmp/manynet-head}
log=$home/head.log
pid_file=$home/head.pid

fail() {
    echo "$1" >&2
    exit 1
}

# Another process may have the number by now, so its command line must be this head's.
running() {
    [[ -f $pid_file ]] && ps -ww -o args= -p "$(<"$pid_file")" 2>/dev/null | grep -qF -- "--temp-dir $home "
}

# A readable token is a shell on this machine for everyone who has an account here.
ensure_token() {
    [[ -z ${RAY_AUTH_TOKEN:-} ]] || return 0
    export RAY_AUTH_TOKEN_PATH=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}
    if [[ ! -e $RAY_AUTH_TOKEN_PATH ]]; then
        (
            umask 077
            mkdir -p "$(dirname "$RAY_AUTH_TOKEN_PATH")"
            od -An -v -tx1 -N32 /dev/urandom | tr -d ' \n' >"$RAY_AUTH_TOKEN_PATH"
        )
    fi
    chmod 600 "$RAY_AUTH_TOKEN_PATH"
}

start() {
    ! running || fail "only one head may use HEAD_DIR, but one runs in $home: clusters/local.sh stop ends it"
    command -v ray >/dev/null || fail "ray must be on the PATH, but is not: PATH=.venv/bin:\$PATH clusters/local.sh start"
    ensure_token
    mkdir -p "$home"
    # Options given here come last, and so win.
    setsid nohup ray start --head --block --temp-dir "$home" --port "$port" --node-ip-address 127.0.0.1 \
        --dashboard-host 127.0.0.1 --dashboard-port "$dashboard" --dashboard-agent-listen-port 0 \
        --disable-usage-stats "$@" >"$log" 2>&1 </dev/null &
    echo $! >"$pid_file"
    until grep -q "Ray runtime started" "$log"; do
        kill -0 "$!" 2>/dev/null || fail "a head must start, but did not; its log, $log, says: $(grep -E "^[A-Za-z.]*Error" "$log" | tail -n 1 || tail -n 1 "$log")"
        sleep 0.5
    done
    cat <<TEXT
A head runs on this machine; its log is $log.

export RAY_AUTH_MODE=token${RAY_AUTH_TOKEN_PATH:+ RAY_AUTH_TOKEN_PATH=$RAY_AUTH_TOKEN_PATH}
export RAY_API_SERVER_ADDRESS=http://127.0.0.1:$dashboard
ray job submit --working-dir . -- python -m manynet run examples/vit-digits.yaml

Dashboard   http://127.0.0.1:$dashboard (it asks for the token: ray get-auth-token prints it)
Metrics     $home/prom_metrics_service_discovery.json
Drivers outside a job   export RAY_ADDRESS=127.0.0.1:$port RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0
Stop        HEAD_DIR=$home clusters/local.sh stop
TEXT
}

stop() {
    running || fail "a head must run in $home to be stopped, but none does"
    local pid
    pid=$(<"$pid_file")
    kill "$pid"
    for _ in {1..60}; do
        running || break
        sleep 0.5
    done
    ! running || kill -KILL "$pid"
    rm -f "$pid_file"
    echo "The head in $home has stopped."
}

command=${1:-}
case $command in
start) start "${@:2}" ;;
stop) stop ;;
*) fail "usage: clusters/local.sh start [options of ray start] | stop" ;;
esac
