package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/strata-csi/strata/test/e2e/process"
)

// Addresses of the cluster, all inside the network namespace that it runs in. Machine 0
// is the namespace itself, with the control plane; machines from 1 on are guests.
const (
	bridge      = "e2e0"
	serviceCIDR = "10.96.0.0/16"
	apiAddress  = "10.96.0.1" // the service "kubernetes", which pods are told
	dnsAddress  = "10.96.0.10"
	controlIP   = "10.70.0.1"
)

func machineIP(i int) string { return fmt.Sprintf("10.70.0.%d", i+1) }

func podCIDR(i int) string { return fmt.Sprintf("10.71.%d.0/24", i) }

func tap(i int) string { return fmt.Sprintf("e2etap%d", i) }

// errNotAlone keeps the cluster's addresses out of a network that others use.
var errNotAlone = errors.New("a cluster wants a network namespace of its own: start it by hack/e2e.sh")

// network makes links and routes for a number of guests.
func network(ctx context.Context, guests int) error {
	links, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("list network interfaces: %w", err)
	}
	for _, l := range links {
		if l.Flags&net.FlagLoopback == 0 && l.Flags&net.FlagUp != 0 {
			return fmt.Errorf("%w: there is %s", errNotAlone, l.Name)
		}
	}
	commands := []string{
		"ip link set lo up",
		"ip address add " + apiAddress + "/32 dev lo",
		"ip address add " + dnsAddress + "/32 dev lo",
		"ip link add " + bridge + " type bridge",
		"ip address add " + controlIP + "/24 dev " + bridge,
		"ip link set " + bridge + " up",
		// Programs look for an interface with a default route to learn their address.
		"ip route add default dev " + bridge,
	}
	for i := 1; i <= guests; i++ {
		commands = append(commands,
			"ip tuntap add dev "+tap(i)+" mode tap",
			"ip link set "+tap(i)+" master "+bridge,
			"ip link set "+tap(i)+" up",
			"ip route add "+podCIDR(i)+" via "+machineIP(i))
	}
	for _, c := range commands {
		if _, err := process.Run(ctx, strings.Fields(c)...); err != nil {
			return fmt.Errorf("make network: %w", err)
		}
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644); err != nil {
		return fmt.Errorf("make network: %w", err)
	}
	return nil
}
