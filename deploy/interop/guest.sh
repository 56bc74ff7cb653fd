#!/bin/sh
# Makes a guest whose only purpose is the Linux kernel's own WireGuard: Debian's
# kernel, and a file system in memory with busybox and wg. Debian's kernel is
# unpacked, not installed. Usage: guest.sh DIR; DIR/vmlinuz and DIR/initrd.gz
# are then there. What is missing of Debian's packages only root can install.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
dir=$1
mkdir -p "$dir"
cd "$dir"

missing=
for pair in qemu-system-x86_64:qemu-system-x86 busybox:busybox-static cpio:cpio wg:wireguard-tools; do
	command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair#*:}"
done
if [ -n "$missing" ]; then
	export DEBIAN_FRONTEND=noninteractive
	apt-get -qq update
	apt-get -qq install -y --no-install-recommends $missing >/dev/null
fi

if [ ! -e vmlinuz ]; then
	image=$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image/{print $2; exit}')
	apt-get -qq download "$image"
	rm -rf kernel
	dpkg -x "$image"_*.deb kernel
	rm "$image"_*.deb
	cp kernel/boot/vmlinuz-* vmlinuz.new
	mv vmlinuz.new vmlinuz
fi

rm -rf root
mkdir -p root/bin root/dev root/etc root/lib root/proc root/run root/sys
cp "$(command -v busybox)" root/bin/
cp "$(command -v wg)" root/bin/
for library in $(ldd root/bin/wg | grep -o '/[^ ]*'); do
	mkdir -p "root$(dirname "$library")"
	cp "$library" "root$library"
done
# In the order in which they need one another: nothing resolves it in the guest.
i=10
for module in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci \
	failover net_failover virtio_net libcurve25519-generic curve25519-x86_64 \
	libchacha chacha-x86_64 libpoly1305 poly1305-x86_64 libchacha20poly1305 \
	ip6_udp_tunnel udp_tunnel wireguard; do
	cp "$(find kernel/lib/modules -name "$module.ko" | head -n 1)" "root/lib/$i-$module.ko"
	i=$((i + 1))
done
cp "$here/init" root/init
chmod 755 root/init
(cd root && find . | cpio -o -H newc --quiet | gzip -1) >initrd.new
mv initrd.new initrd.gz
