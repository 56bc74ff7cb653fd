package snmp

import "sync"

// quirks are what a device was found to be unable to take.
type quirks struct {
	MaxRepetitions uint32 `json:"max_repetitions,omitempty"` // that it answers; 0: not limited yet
	MaxOIDs        int    `json:"max_oids,omitempty"`
	NoBulk         bool   `json:"no_bulk,omitempty"` // GetBulk is broken: walk by GetNext
}

// memory keeps the quirks of devices across jobs. It forgets everything when
// it has seen very many devices: they are found out again in one job each.
type memory struct {
	mu sync.Mutex
	m  map[string]quirks
}

const maxRemembered = 100_000

func newMemory() *memory { return &memory{m: make(map[string]quirks)} }

func (m *memory) get(device string) quirks {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.m[device]
}

func (m *memory) put(device string, q quirks) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.m) >= maxRemembered {
		clear(m.m)
	}
	m.m[device] = q
}
