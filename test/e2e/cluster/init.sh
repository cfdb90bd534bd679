#!/bin/busybox sh
# First process of a guest, in its initramfs: loads the modules of its disk and of the
# shared folder, and goes on with the system on the disk.
/bin/busybox mkdir -p /proc /sys /dev /root
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t devtmpfs dev /dev
while read -r module; do
  /bin/busybox insmod "/modules/$module" || /bin/busybox echo "cannot load $module"
done </modules/order
for try in 1 2 3 4 5 6 7 8 9 10; do
  [ -b /dev/vda ] && break
  /bin/busybox sleep 0.2
done
/bin/busybox mount -t ext4 /dev/vda /root || exec /bin/busybox sh
/bin/busybox mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=none host /root/host
/bin/busybox mount -o move /dev /root/dev
/bin/busybox umount /sys /proc
exec /bin/busybox switch_root /root /sbin/node-init
