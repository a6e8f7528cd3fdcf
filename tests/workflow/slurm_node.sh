#!/usr/bin/env bash
# A Slurm of one node, with two made-up GPUs, for tests: `slurm_node.sh start`, `stop`, `status`.
#
# Only for root on Debian, with slurm-wlm, munge and procps (`make services`). Slurm has one configuration a
# machine, /etc/slurm/slurm.conf: one that this script did not write is never touched.
set -euo pipefail

readonly STATE=/var/tmp/fadepth-slurm
readonly CONF=/etc/slurm/slurm.conf
readonly GRES=/etc/slurm/gres.conf
readonly MARK="# Written by fadepth's tests/workflow/slurm_node.sh, and removed by it."

refuse() { # what cannot be here: 77, as test suites say "skipped"
  echo "slurm_node.sh: $1" >&2
  exit "${2:-77}"
}

is_foreign() { # a file that is there, and not ours
  [ -e "$1" ] && [ "$(head -n 1 "$1")" != "$MARK" ]
}

check() {
  [ -e /etc/debian_version ] || refuse "this is no Debian; a Slurm for tests is only set up there."
  [ "$(id -u)" = 0 ] || refuse "only root can start Slurm's daemons here."
  for command in munged slurmctld slurmd sbatch pgrep; do
    command -v "$command" >/dev/null \
      || refuse "no $command: install slurm-wlm, munge and procps (make services)."
  done
  for file in "$CONF" "$GRES"; do
    if is_foreign "$file"; then
      refuse "$file belongs to another Slurm, which is left alone."
    fi
  done
}

is_alive() { # whether the process of a pid file runs, under the name that it should have
  local pid
  pid=$(cat "$1" 2>/dev/null) && pgrep --runstates D,I,R,S --exact "$2" | grep -qx "$pid"
}

runs() { is_alive "$STATE/slurmctld.pid" slurmctld && is_alive "$STATE/slurmd.pid" slurmd; }

write_configuration() {
  local node
  node=$(hostname -s)
  install -d /etc/slurm
  cat >"$GRES" <<END
$MARK
NodeName=$node Name=gpu File=/dev/zero
NodeName=$node Name=gpu File=/dev/null
END
  # config_overrides: what the node line says counts, whatever the machine has, so that the requests
  # of profiles/slurm are met. pgid: when a job's own process ends, Slurm kills the others at once,
  # as with cgroups. MinJobAge: without accounting only squeue tells how a job ended, for a while.
  cat >"$CONF" <<END
$MARK
ClusterName=fadepth
SlurmctldHost=$node(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation=$STATE/state
SlurmdSpoolDir=$STATE/spool
SlurmctldPidFile=$STATE/slurmctld.pid
SlurmdPidFile=$STATE/slurmd.pid
SlurmctldLogFile=$STATE/slurmctld.log
SlurmdLogFile=$STATE/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$STATE/jobcomp.txt
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=2
MpiDefault=none
MinJobAge=300
GresTypes=gpu
NodeName=$node NodeAddr=127.0.0.1 CPUs=32 RealMemory=128000 Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=$node Default=YES MaxTime=INFINITE State=UP
END
}

start() {
  check
  if runs; then
    echo "Slurm runs already."
    return
  fi
  # Ended daemons may wait for the first process to take note of them: those do not run.
  if pgrep --runstates D,I,R,S --exact 'slurm(ctl)?d' >/dev/null; then
    refuse "a Slurm daemon that this script has not started runs here."
  fi
  rm -rf "$STATE"
  mkdir -p "$STATE/state" "$STATE/spool"
  write_configuration
  if ! munge --no-input >/dev/null 2>&1; then
    install -d -o munge -g munge /run/munge
    runuser -u munge -- munged --pid-file=/run/munge/fadepth.pid
  fi
  slurmctld
  slurmd
  for _ in $(seq 100); do
    if [ "$(sinfo --noheader --format=%T 2>/dev/null)" = idle ]; then
      echo "Slurm runs: $(sinfo --version), one node, made up: 32 CPUs, 128 GB, 2 GPUs."
      return
    fi
    sleep 0.2
  done
  tail -n 20 "$STATE/slurmctld.log" "$STATE/slurmd.log" >&2
  refuse "Slurm's daemons did not come up; the lines above are the ends of their logs." 1
}

end() { # the process of a pid file, and wait for it
  if is_alive "$1" "$2"; then
    local pid
    pid=$(cat "$1")
    kill "$pid"
    for _ in $(seq 100); do
      is_alive "$1" "$2" || return 0
      sleep 0.1
    done
    kill -KILL "$pid"
  fi
}

stop() {
  check
  if runs; then
    scancel --user=root || true
  fi
  end "$STATE/slurmd.pid" slurmd
  end "$STATE/slurmctld.pid" slurmctld
  end /run/munge/fadepth.pid munged
  rm -rf "$CONF" "$GRES" "$STATE"
  echo "Slurm is stopped, and its configuration removed."
}

case "${1:-}" in
  start) start ;;
  stop) stop ;;
  status) runs ;;
  *) refuse "say start, stop or status." 2 ;;
esac
