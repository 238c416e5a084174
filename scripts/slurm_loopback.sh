#!/usr/bin/env bash
# A Slurm cluster of one node on this machine: for trying a sweep before it goes to a real one, and for the test that sends one through.
#
#   scripts/slurm_loopback.sh start [FOLDER]      says which SLURM_CONF to export; then sinfo, srun, hydra/launcher=submitit_slurm work
#   scripts/slurm_loopback.sh stop [FOLDER]
#
# Needs Debian's packages slurm-wlm and munge, and root. Keys, state and logs are under FOLDER (/tmp/ntkcl-slurm).
set -euo pipefail

action=${1:-} folder=${2:-/tmp/ntkcl-slurm}

start() {
  for program in munged slurmctld slurmd; do
    command -v $program >/dev/null || { echo "slurm_loopback: $program is not installed; apt-get install slurm-wlm munge" >&2; exit 1; }
  done
  mkdir -p "$folder"/{munge,state,spool}
  chmod 755 "$folder"
  chmod 700 "$folder/munge"
  (umask 077 && head -c 1024 /dev/urandom >"$folder/munge/key")
  munged --force --key-file="$folder/munge/key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munge/log" --seed-file="$folder/munge/seed"
  cat >"$folder/slurm.conf" <<EOF
ClusterName=loopback
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=${SLURMCTLD_PORT:-6817}
SlurmdPort=${SLURMD_PORT:-6818}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
NodeName=$(hostname -s) NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo) State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
EOF
  export SLURM_CONF="$folder/slurm.conf"
  slurmctld
  slurmd -N "$(hostname -s)"
  for _ in $(seq 60); do
    if sinfo --noheader --format=%t 2>/dev/null | grep -qx idle; then
      echo "export SLURM_CONF=$SLURM_CONF"
      return
    fi
    sleep 0.5
  done
  echo "slurm_loopback: the node does not answer; see $folder/slurmctld.log and $folder/slurmd.log" >&2
  exit 1
}

stop() {
  local pids=()
  for name in slurmctld slurmd munged; do
    if [ -f "$folder/$name.pid" ]; then pids+=("$(cat "$folder/$name.pid")"); fi
  done
  kill "${pids[@]}" 2>/dev/null || true
  for _ in $(seq 200); do  # a daemon writes below the folder until it has removed its file
    if ! ls "$folder"/*.pid >/dev/null 2>&1; then break; fi
    sleep 0.1
  done
  if ls "$folder"/*.pid >/dev/null 2>&1; then kill -KILL "${pids[@]}" 2>/dev/null || true; fi
  for _ in $(seq 50); do  # what a job has left behind ends a moment later
    rm -rf "$folder" 2>/dev/null && return
    sleep 0.1
  done
  rm -rf "$folder"
}

case $action in
  start) start ;;
  stop) stop ;;
  *) sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
