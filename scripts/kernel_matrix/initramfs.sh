#!/bin/busybox sh
# Loads what the disks need, mounts them, and goes on with the guest's own first program.
b=/bin/busybox
$b mkdir -p /proc /sys /dev /root
$b mount -t proc proc /proc
$b mount -t sysfs sysfs /sys
$b mount -t devtmpfs devtmpfs /dev
for module in $($b cat /modules/order); do
    $b insmod "/modules/$module" || $b echo "init: $module does not load"
done
find_disk() {
    tries=0
    until disk=$($b findfs "LABEL=$1" 2>/dev/null); do
        tries=$((tries + 1))
        [ $tries -lt 300 ] || { $b echo "init: no disk $1"; $b poweroff -f; }
        $b sleep 0.1
    done
}
find_disk userland
$b mount -t ext4 "$disk" /root
find_disk kernel
$b mount -t ext4 -o ro "$disk" /root/opt/kernel
find_disk program
$b mount -t ext4 -o ro "$disk" /root/opt/tracer
for place in proc sys dev; do
    $b mount --move /$place /root/$place
done
exec $b switch_root /root /bin/sh /opt/tracer/init "$@"
