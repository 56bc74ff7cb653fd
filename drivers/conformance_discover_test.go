package drivers

func discoverRows() []conformer {
	const kernel = "loopback is the satellite's own address: the kernel answers itself; silent and garbled agents are met by TestScanPassesBadAgentsBy"
	return []conformer{{
		action: "discover.scan", params: `{"network":"127.0.0.1/32","probes":["icmp","tcp:1"]}`,
		not: map[string]string{
			"refused": "a refusal is a finding", "silent": kernel, "slow": kernel, "garbled": kernel, "dropped in the middle": kernel,
			"cancelled": "tested by TestScanIsCancelled", "huge answer": "tested by TestScanKeepsTheLimits",
		},
	}}
}
