package cluster

import "fmt"

// Configuration that is the same on the machine's own node and in guests.

// containerdConfig returns containerd's. In a container of this machine root may lack
// the right to lower scores of the out-of-memory killer, which runc then fails at.
func containerdConfig(root, cniConf string, restricted bool) string {
	return fmt.Sprintf(`version = 2
root = %q
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  restrict_oom_score_adj = %t
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = %q
`, root, pauseImage, restricted, cniConf)
}

// cniConfig returns the configuration of a machine's pod network: a bridge, whose
// addresses the other machines have a route to.
func cniConfig(machine int) string {
	return fmt.Sprintf(`{
  "cniVersion": "0.4.0", "name": "pods",
  "plugins": [
    {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": %q}]], "routes": [{"dst": "0.0.0.0/0"}]}}
  ]
}
`, podCIDR(machine))
}

// kubeletConfig returns a kubelet's configuration file. Everything that would evict pods
// for the state of a small machine is off.
func kubeletConfig(ca, cgroupRoot string, cgroupV1 bool) string {
	return fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: %q}}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
cgroupRoot: %q
failCgroupV1: %t
clusterDNS: [%q]
clusterDomain: cluster.local
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
enforceNodeAllocatable: []
evictionHard: {memory.available: "10Mi", nodefs.available: "1%%", imagefs.available: "1%%"}
imageGCHighThresholdPercent: 100
imageMinimumGCAge: 24h
failSwapOn: false
makeIPTablesUtilChains: false
localStorageCapacityIsolation: false
resolvConf: ""
staticPodPath: ""
syncFrequency: 10s
`, ca, cgroupRoot, !cgroupV1, dnsAddress)
}
