#!/usr/bin/env bash
# Slow links on one machine, for benchmarks/bench_overlap.py: each process gets a network namespace of its own, joined to a
# switch by a veth pair whose both ends send at a given rate (tbf), so that a process sends and receives at most that much.
# Needs root, iproute2, and a kernel with network namespaces, veth, bridge and tbf (all common; netem is not needed).
#
#   scripts/overlap_links.sh up N        make namespaces openarctic-0 .. openarctic-(N-1), addresses 10.77.0.1 .. 10.77.0.N
#   scripts/overlap_links.sh rate N R    let every link carry R Mbit/s each way ("none": as fast as the machine can)
#   scripts/overlap_links.sh run I CMD   run a command in namespace I
#   scripts/overlap_links.sh down N      remove them
set -euo pipefail
switch=openarctic-switch

up() {
  ip netns add "$switch"
  ip -n "$switch" link add name bridge type bridge
  ip -n "$switch" link set bridge up
  for ((i = 0; i < $1; i++)); do
    ip netns add "openarctic-$i"
    ip link add link0 netns "openarctic-$i" type veth peer name "port$i" netns "$switch"
    ip -n "openarctic-$i" address add "10.77.0.$((i + 1))/24" dev link0
    ip -n "openarctic-$i" link set lo up
    ip -n "openarctic-$i" link set link0 up
    ip -n "$switch" link set "port$i" master bridge
    ip -n "$switch" link set "port$i" up
  done
}

# shape NAMESPACE DEVICE RATE: a burst of 4 ms at that rate (the kernel's clock ticks every 4), and room to queue instead of dropping.
shape() {
  if [ "$3" = none ]; then
    tc -n "$1" qdisc delete dev "$2" root 2>/dev/null || true
    return
  fi
  local burst=$(($3 * 500))
  tc -n "$1" qdisc replace dev "$2" root tbf rate "$3mbit" burst "$((burst > 65536 ? burst : 65536))" limit 64mb
}

rate() {
  for ((i = 0; i < $1; i++)); do
    shape "openarctic-$i" link0 "$2"
    shape "$switch" "port$i" "$2"
  done
}

down() {
  for ((i = 0; i < $1; i++)); do
    ip netns delete "openarctic-$i" 2>/dev/null || true
  done
  ip netns delete "$switch" 2>/dev/null || true
}

case "${1:-}" in
  up) down "$2"; up "$2" ;;
  rate) rate "$2" "$3" ;;
  run) exec ip netns exec "openarctic-$2" "${@:3}" ;;
  down) down "$2" ;;
  *) sed -n '2,11p' "$0"; exit 2 ;;
esac
