#!/usr/bin/env bash
# A private Slurm on this machine: a controller and NODES nodes (n1, n2 ...) of two processors each, all processes of this script.
#   scripts/slurmbox.sh DIR NODES COMMAND...    runs COMMAND against it, then stops it; SLURM_CONF is DIR/slurm.conf
# Needs root, slurm-wlm and munge (scripts/install.sh slurm). Partitions: work (default), and urgent, which takes work's nodes away.
# DIR/run holds the daemons' process IDs, DIR/log what they say; EXIT_REQUEUES=no leaves RequeueExit out.
set -euo pipefail
dir=$(readlink -m "$1") nodes=$2
shift 2
host=$(hostname -s)
port=${SLURMBOX_PORT:-16817}
mkdir -p "$dir"/{state,log,run,munge}
[ -s "$dir/munge/key" ] || (umask 277 && dd if=/dev/urandom of="$dir/munge/key" bs=128 count=1 status=none)
chown -R munge:munge "$dir/munge"
chmod 755 "$dir/munge"
cat >"$dir/slurm.conf" <<CONF
ClusterName=box
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool-%n
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd-%n.pid
SlurmdParameters=config_overrides
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,bf_interval=1
ReturnToService=2
SlurmdTimeout=30
KillWait=60
JobRequeue=1
$([ "${EXIT_REQUEUES:-yes}" = no ] || echo RequeueExit=75)
MaxArraySize=101
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
$(for ((i = 1; i <= nodes; i++)); do
  echo "NodeName=n$i NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + i)) CPUs=2 RealMemory=1024 State=UNKNOWN"
done)
PartitionName=work Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1
PartitionName=urgent Nodes=ALL Default=NO MaxTime=INFINITE PriorityTier=10
CONF
export SLURM_CONF=$dir/slurm.conf

# Daemons stay in the foreground, so that they end with us; whoever kills and starts one again writes its number here.
pids() { cat "$dir"/run/*.pid 2>/dev/null || true; }
stop() {
  timeout 5 squeue -h -o %A 2>/dev/null | sort -u | xargs -r timeout 5 scancel 2>/dev/null || true
  for ((i = 0; i < 150; i++)); do
    [ -n "$(timeout 5 squeue -h -o %A 2>/dev/null)" ] || break
    sleep 0.1
  done
  for pid in $(pids); do kill "$pid" 2>/dev/null || true; done
  wait
}
trap stop EXIT
trap 'exit 1' TERM INT
setpriv --reuid=munge --regid=munge --clear-groups munged -F --key-file="$dir/munge/key" --socket="$dir/munge/socket" --pid-file="$dir/munge/pid" \
  --log-file="$dir/munge/log" --seed-file="$dir/munge/seed" --num-threads=2 >"$dir/log/munged" 2>&1 &
munged=$!
echo $munged >"$dir/run/munged.pid"
for ((i = 0; i < 100; i++)); do
  [ -S "$dir/munge/socket" ] && break
  sleep 0.1
done
slurmctld -D -f "$SLURM_CONF" >"$dir/log/slurmctld" 2>&1 &
for ((i = 1; i <= nodes; i++)); do slurmd -D -f "$SLURM_CONF" -N "n$i" >"$dir/log/slurmd-n$i" 2>&1 & done
for ((i = 0; i < 300; i++)); do
  [ "$(timeout 5 sinfo -h -N -p work -o %T 2>/dev/null | grep -c idle)" = "$nodes" ] && break
  sleep 0.1
done
[ "$(sinfo -h -N -p work -o %T | grep -c idle)" = "$nodes" ] || {
  echo "slurmbox: the nodes are not idle" >&2
  tail -n 5 "$dir"/log/* >&2
  exit 1
}
"$@"
