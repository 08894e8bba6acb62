#!/bin/sh
# The first program of a guest: mounts what every system has, runs the guest script with the arguments that the kernel was
# given for it, and switches the machine off. How it went is told on the result port, not here.
export PATH=/usr/sbin:/usr/bin HOME=/root LANG=C.UTF-8
mkdir -p /dev/pts /dev/shm
mount -t devpts -o mode=0620,ptmxmode=0666 devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t tmpfs tmpfs /run
ln -sf /proc/self/fd /dev/fd
mount --bind /opt/kernel/lib/modules /usr/lib/modules
mount --bind /opt/kernel/src /usr/src

port=
for name in /sys/class/virtio-ports/*/name; do
    [ "$(cat "$name")" != results ] || port=/dev/$(basename "$(dirname "$name")")
done
if [ -n "$port" ]; then
    /opt/tracer/guest --results "$port" --generator /opt/tracer/storm --traffic /opt/tracer/traffic "$@"
else
    echo "init: there is no port for the results"
fi
exec busybox poweroff -f
