#!/bin/sh
# First process on a node's disk: makes the system what a kubelet expects, starts
# containerd and the kubelet, and runs what the host asks for. The host's folder /host
# holds configuration, images, logs and requests. NODE and ADDRESS come from the
# kernel's command line.
export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
exec </dev/null >>/host/log/init.log 2>&1
echo "node-init: $NODE at $(cut -d' ' -f1 /proc/uptime 2>/dev/null) s"
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /tmp
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --make-rshared /
hostname "$NODE"
for module in overlay loop virtio_net veth bridge br_netfilter; do
  modprobe "$module" || echo "cannot load $module"
done
ip link set lo up
ip address add "$ADDRESS/24" dev eth0
ip link set eth0 up
ip route add default via 10.70.0.1
echo 1 >/proc/sys/net/ipv4/ip_forward
dmesg -n 4
echo "node-init: network at $(cut -d' ' -f1 /proc/uptime) s"

containerd --config /host/containerd.toml >>/host/log/containerd.log 2>&1 &
until ctr version >/dev/null 2>&1; do sleep 0.3; done
echo "node-init: containerd at $(cut -d' ' -f1 /proc/uptime) s"
kubelet --config /host/kubelet.yaml --kubeconfig /host/kubeconfig \
  --hostname-override "$NODE" --node-ip "$ADDRESS" >>/host/log/kubelet.log 2>&1 &
cat /dev/kmsg >>/host/log/kernel.log &

# A request is a script; its answer is its output, then its exit code in a file that
# appears complete.
while :; do
  for request in /host/requests/*.sh; do
    [ -e "$request" ] || continue
    mv "$request" "${request%.sh}.running" || continue
    (
      sh "${request%.sh}.running" >"${request%.sh}.out" 2>&1
      echo $? >"${request%.sh}.tmp"
      mv "${request%.sh}.tmp" "${request%.sh}.code"
    ) &
  done
  sleep 0.5
done
