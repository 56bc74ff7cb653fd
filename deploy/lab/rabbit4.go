package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// rabbit4Tree is where .ci/rabbit4 puts the file system of a RabbitMQ 4.
const rabbit4Tree = "/var/cache/usm-satellite/rabbitmq-4"

// rabbit4Server is the program in that tree.
const rabbit4Server = "/usr/lib/rabbitmq/bin/rabbitmq-server"

var errRoot = errors.New("RabbitMQ 4 is started in a chroot, which needs root")

// StartRabbit4 is StartRabbit with RabbitMQ 4, which Debian 12 does not have:
// Debian 13's packages in a chroot with mounts of its own.
func StartRabbit4(ctx context.Context, c RabbitConfig) (*Rabbit, error) {
	tree := rabbit4Tree
	if _, err := os.Stat(tree + rabbit4Server); err != nil {
		return nil, fmt.Errorf("RabbitMQ 4 %w: run make deps, which makes %s", errMissing, tree)
	}
	if os.Geteuid() != 0 {
		return nil, errRoot
	}
	return startRabbit(ctx, c, &Rabbit{inside: "/mnt", root: tree, server: rabbit4Server})
}

// enterTree sees to the mounts, in a namespace that ends with the node, and
// becomes the program: its process id is the one that was started.
const enterTree = `set -e
mount --rbind /dev "$1/dev"
mount --bind /proc "$1/proc"
mount --bind "$2" "$1/mnt"
[ -e "$1/etc/hosts" ] && mount --bind /etc/hosts "$1/etc/hosts"
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
exec chroot "$1" "$3"`

func (r *Rabbit) command() (program string, args []string) {
	if r.root == "" {
		return r.server, nil
	}
	dir, err := filepath.Abs(r.dir)
	if err != nil {
		dir = r.dir
	}
	return "unshare", []string{"--mount", "--propagation", "private", "sh", "-c", enterTree, "sh", r.root, dir, r.server}
}
