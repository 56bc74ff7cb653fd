package main

import (
	"context"
	"errors"
	"flag"
	"fmt"

	"usm-satellite/broker"
)

const revokeHelp = `Usage:
  satctl revoke --satellite ID [options]

Cuts a satellite off: takes its peers out of the hub's list (the hub sees it
within seconds), deletes its broker user and closes the user's connections.
Its jobs stay in their queue unless --delete-queue is given.

Example:
  satctl revoke --satellite 7 --management http://127.0.0.1:15672

Options:
  --satellite ID             which
  --peers-file FILE          the hub's list (default: USM_HUB_PEERS_FILE)
  --management URL           the broker's management API (default:
                             USM_MANAGEMENT_URL); who logs in: of the URL, or
                             of the DSN
  --user NAME                the broker user (default: sat-ID)
  --delete-queue             delete the queue and the jobs in it
  --vhost NAME               (default: the DSN's, or /)
  --dsn, --ca-file           as in satctl submit

Exit codes: 0 cut off; 1 there was nothing to cut off; 2 usage; 3 the broker's
management API could not be used (the peers are out all the same).
`

type revokeOptions struct {
	connection
	satellite, peersFile, management, user, vhost string
	deleteQueue                                   bool
}

func (o *revokeOptions) register(flags *flag.FlagSet, getenv func(string) string) {
	o.connection.register(flags, getenv)
	flags.StringVar(&o.satellite, "satellite", "", "")
	flags.StringVar(&o.peersFile, "peers-file", getenv("USM_HUB_PEERS_FILE"), "")
	flags.StringVar(&o.management, "management", getenv("USM_MANAGEMENT_URL"), "")
	flags.StringVar(&o.user, "user", "", "")
	flags.StringVar(&o.vhost, "vhost", "", "")
	flags.BoolVar(&o.deleteQueue, "delete-queue", false, "")
}

func parseRevoke(args []string, getenv func(string) string) (*revokeOptions, error) {
	o := &revokeOptions{}
	flags := newFlags("revoke")
	o.register(flags, getenv)
	if err := parse(flags, args); err != nil {
		return nil, err
	}
	if flags.NArg() > 0 {
		return nil, usagef("does not know what to do with %q", flags.Arg(0))
	}
	if err := checkSatelliteID(o.satellite); err != nil {
		return nil, err
	}
	if o.peersFile == "" && o.management == "" {
		return nil, usagef("give --peers-file (USM_HUB_PEERS_FILE), --management (USM_MANAGEMENT_URL) or both")
	}
	if o.deleteQueue && o.management == "" {
		return nil, usagef("--delete-queue needs --management (USM_MANAGEMENT_URL)")
	}
	if o.user == "" {
		o.user = peerName(o.satellite)
	}
	return o, nil
}

func revoke(ctx context.Context, args []string, sys system) error {
	o, err := parseRevoke(args, sys.Getenv)
	if err != nil {
		return err
	}
	api, vhost, err := o.openManagement(sys.Getenv, o.management, o.vhost)
	if err != nil {
		return err
	}
	found := false
	if o.peersFile != "" {
		removed := 0
		err := changePeers(o.peersFile, func(peers *peersFile) error {
			removed = peers.remove(o.satellite)
			return nil
		})
		if err != nil {
			return usagef("%w", err)
		}
		fmt.Fprintf(sys.Stdout, "%d peers taken out of %s\n", removed, o.peersFile)
		found = removed > 0
	}
	if api != nil {
		existed, err := o.withdraw(ctx, api, vhost, sys)
		if err != nil {
			return brokerError(err)
		}
		found = found || existed
	}
	if !found {
		return fmt.Errorf("there is no satellite %s: neither a peer nor a broker user %s", o.satellite, o.user)
	}
	return nil
}

func (o *revokeOptions) withdraw(ctx context.Context, api *broker.Management, vhost string, sys system) (bool, error) {
	closed, existed, err := api.Withdraw(ctx, o.user)
	if err != nil {
		return false, err
	}
	if existed {
		fmt.Fprintf(sys.Stdout, "broker user %s deleted, %d connections still open closed\n", o.user, closed)
	} else {
		fmt.Fprintf(sys.Stdout, "there is no broker user %s\n", o.user)
	}
	if o.deleteQueue {
		queue := "usm_poller-sat-" + o.satellite
		err := api.DeleteQueue(ctx, vhost, queue)
		if err != nil && !errors.Is(err, broker.ErrNotFound) {
			return existed, err
		}
		fmt.Fprintf(sys.Stdout, "queue %s deleted\n", queue)
	}
	return existed, nil
}
